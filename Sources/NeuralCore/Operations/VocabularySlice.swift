// Letters: C rows of a chunk, V vocabulary, Vr its rows here, M model width.

import DistributedCore
import Foundation
import TensorCore

/// The tokens whose rows of embedding and head a rank holds, where tensor parallelism cuts the vocabulary (Shoeybi et al. 2019,
/// section 3).
public struct VocabularySlice: Sendable {
    public let tokens: Range<Int>
    private let ranks: any Communicator

    /// This rank's piece of a whole vocabulary.
    public init(of vocabulary: Int, over ranks: any Communicator) {
        tokens = .piece(ranks.rank, of: ranks.size, count: vocabulary)
        self.ranks = ranks
    }

    /// Indices into the slice of int32 tokens; -1 for those that other ranks hold, and for negative ones.
    func indices(of tokens: Tensor) -> Tensor {
        let local = tokens.detached.contiguous().values(Int32.self).map { token in
            self.tokens.contains(Int(token)) ? token - Int32(self.tokens.lowerBound) : -1
        }
        return Tensor(local, tokens.shape, on: tokens.device)
    }

    /// `Device.crossEntropy` over the whole vocabulary, of which `logits_CV` [C, Vr] has the columns of this slice: losses [C] float64 are
    /// the same on every rank, the gradient [C, Vr] (may be the logits themselves) has this slice's columns.
    ///
    /// One exchange of 16 C bytes: each rank's log-sum-exp, and the target's logit where it is held.
    func crossEntropy(_ logits_CV: Tensor, targets: Tensor, losses: Tensor, gradient: Tensor?) throws {
        let (device, type) = (logits_CV.device, logits_CV.dtype)
        let (count, width) = (logits_CV.shape[0], logits_CV.shape[1])
        let targets_C = targets.contiguous().values(Int32.self)
        let own_C = targets_C.map { tokens.contains(Int($0)) ? Int($0) - tokens.lowerBound : nil }
        if let wrong = targets_C.first(where: { Int($0) >= tokens.upperBound && ranks.rank == ranks.size - 1 }) {
            shapeFault("crossEntropy", "target \(wrong) is not in a vocabulary of \(tokens.upperBound)", logits_CV)
        }

        // The primitive wants a target that is here; any will do to find log-sum-exp = loss + logit, and its place is set right below.
        var (sums_C, logits_C) = ([Double](repeating: -.infinity, count: count), [Double](repeating: 0, count: count))
        let places = Tensor((0..<count).map { Int64($0 * width + (own_C[$0] ?? 0)) }, on: device)
        if width > 0 {
            logits_C = logits_CV.reshaped([count * width, 1]).gather(places).reshaped([count]).doubles
            let standIns = Tensor(own_C.map { Int32($0 ?? 0) }, on: device)
            device.crossEntropy(logits_CV, targets: standIns, scale: 1, losses: losses, gradient: gradient)
            sums_C = zip(losses.doubles, logits_C).map { $0 + $1 }
        }
        let held_C = (0..<count).map { own_C[$0] == nil ? 0 : logits_C[$0] }
        let all = try ranks.allGather(Message([Tensor(sums_C + held_C, on: device)])).map { $0.tensors[0].doubles }

        var (losses_C, scales_C, steps_C) = ([Double](), [Double](), [Double]())
        for row in 0..<count {
            let largest = all.map { $0[row] }.max()!
            let sum = largest + log(all.reduce(0) { $0 + exp($1[row] - largest) })
            let isIgnored = targets_C[row] < 0
            losses_C.append(isIgnored ? 0 : sum - all.reduce(0) { $0 + $1[count + row] })
            // (softmax here - onehot) -> (softmax over all - onehot of the true target)
            let scale = isIgnored ? 0 : exp(sums_C[row] - sum)
            scales_C.append(scale)
            steps_C.append(scale - (own_C[row] == nil || isIgnored ? 0 : 1))
        }
        device.copy(Tensor(losses_C, on: device), into: losses)
        guard let gradient, width > 0 else { return }
        let factors = Tensor(scales_C, [count, 1], on: device).cast(to: type)
        device.binary(.multiply, gradient, factors.broadcast(to: gradient.shape), into: gradient)
        let steps = Tensor(steps_C, [count, 1], on: device).cast(to: type)
        device.scatterAdd(steps, places, into: gradient.reshaped([count * width, 1]))
    }
}

extension Embedding {
    /// Looks up tokens of a vocabulary of so many, of which the context may have a slice here, and rows of it only.
    ///
    /// With sharded rows the whole slice is collected where a gradient is wanted, which is as large; otherwise the tokens' rows are.
    public func callAsFunction(_ tokens: Tensor, of vocabulary: Int, _ context: SequenceContext) throws -> Tensor {
        let slice = context.sharding.tensor.map { VocabularySlice(of: vocabulary, over: $0) }
        let indices = slice?.indices(of: tokens) ?? tokens
        let rows =
            weight.isTracked
            ? try context.whole(self)(indices, context.precision)
            : try context.sharding.lookUp(
                indices, in: weight, rowCount: slice?.tokens.count ?? vocabulary, sentAs: context.precision.compute)
        return try context.reduced(rows)
    }
}
