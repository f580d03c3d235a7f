import AttentionCore
import DistributedCore
import TensorCore

/// One attention problem over a whole sequence, with its numbers, from which any rank can cut its part.
///
/// Queries and keys are normal; logits scale q k have standard deviation about `spread`. (Inputs in [0, 1) would make the softmax
/// nearly uniform and hide errors.) Adversarial cases have logits of a form of their own, see `Numbers`.
public struct AttentionCase: Sendable, CustomStringConvertible {
    /// The terms of the mask, in the form of the whole sequence.
    public struct Terms: Sendable {
        public var causal = false
        public var window: AttentionMask.Window?
        /// Lengths of packed documents; they must fill the sequence.
        public var documentLengths: [Int]?
        public var alibi = false
        public var softCap: Double?
        public var sinks = false
        /// Which axes of [B, H, Tq, Tk] the bias has, the others being 1.
        public var biasAxes: [Bool]?
        public var dropout: Double?
        /// The document of every token, [T] or [B, T] row-major, in place of `documentLengths`. Negative ids are padding, whose upstream
        /// gradient is 0.
        public var documentIDs: [Int32]?
        /// The queries' documents, where they differ from the keys': a query whose document has no key sees nothing.
        public var queryDocumentIDs: [Int32]?
        /// The share of the bias's elements that are -inf, which hides a pair.
        public var hiddenShare: Double

        public init(
            causal: Bool = false, window: AttentionMask.Window? = nil, documentLengths: [Int]? = nil,
            alibi: Bool = false,
            softCap: Double? = nil, sinks: Bool = false, biasAxes: [Bool]? = nil, dropout: Double? = nil,
            documentIDs: [Int32]? = nil, queryDocumentIDs: [Int32]? = nil, hiddenShare: Double = 0
        ) {
            self.causal = causal
            self.window = window
            self.documentLengths = documentLengths
            self.alibi = alibi
            self.softCap = softCap
            self.sinks = sinks
            self.biasAxes = biasAxes
            self.dropout = dropout
            self.documentIDs = documentIDs
            self.queryDocumentIDs = queryDocumentIDs
            self.hiddenShare = hiddenShare
        }
    }

    /// How the logits are distributed.
    public enum Numbers: String, Sendable, Hashable, CaseIterable {
        /// Normal, of standard deviation `spread`.
        case normal
        /// About +1e4 and -1e4, by a random sign of the key and of the query.
        case extreme
        /// Steps of 200 every eighth of the sequence, upwards for even query positions and downwards for odd ones: from block to
        /// block lse moves by more than float32's exp can express (88), and the blocks that weigh come last or first.
        case steps
    }

    public var name: String
    public var batch, heads, keyHeads, length, headSize: Int
    public var dtype: DType
    public var spread: Double
    public var seed: UInt64
    public var terms: Terms
    public var numbers: Numbers
    /// Logits so far apart that float32 cannot resolve them: errors are bounded by the naive computation's alone.
    public var isAdversarial: Bool

    public init(
        _ name: String, batch: Int = 1, heads: Int, keyHeads: Int? = nil, length: Int, headSize: Int,
        dtype: DType = .float32, spread: Double = 1, numbers: Numbers = .normal, isAdversarial: Bool = false,
        seed: UInt64 = 1, _ terms: Terms = Terms()
    ) {
        self.name = name
        self.batch = batch
        self.heads = heads
        self.keyHeads = keyHeads ?? heads
        self.length = length
        self.headSize = headSize
        self.dtype = dtype
        self.spread = spread
        self.numbers = numbers
        self.isAdversarial = isAdversarial
        self.seed = seed
        self.terms = terms
    }

    public var description: String {
        "\(name) [B \(batch), H \(heads):\(keyHeads), T \(length), D \(headSize), \(dtype), spread \(spread), seed \(seed)]"
    }

    /// q, k, v, dOut of the tokens at `positions` (all of them when nil), on a device. [B, H, T, D], seen through [B, T, H, D] memory
    /// as a projection leaves it.
    public struct Inputs: Sendable {
        public var q, k, v, dOut: Tensor
        public var problem: AttentionProblem
    }

    /// - Parameter positions: the tokens wanted, in this order; nil for all.
    public func inputs(at positions: Positions? = nil, on device: any Device) -> Inputs {
        let own = positions ?? .contiguous(count: length)
        let problem = AttentionProblem(
            heads: heads, keyHeads: keyHeads, headSize: headSize, dtype: dtype, queries: own, keys: own,
            mask: mask(at: own, on: device))
        func shard(_ whole: Tensor) -> Tensor {
            whole.shard(axis: 1, at: own).cast(to: dtype).permuted([0, 2, 1, 3])
        }
        var dOut = normal(4, heads, on: device)
        if let ids = documentIDs, ids.contains(where: { $0 < 0 }) {
            dOut =
                dOut
                * Tensor(ids.map { $0 < 0 ? 0 : 1.0 }, [ids.count / length, length, 1, 1], on: device).cast(to: wide)
        }
        return Inputs(
            q: shard(queries(on: device)), k: shard(keys(on: device)), v: shard(normal(3, keyHeads, on: device)),
            dOut: shard(dOut), problem: problem)
    }

    /// What ranks that hold these tokens know of each other. Where queries and keys of one token have different documents nobody says
    /// which.
    public func shards(_ positions: [Positions]) -> [SequenceShard] {
        let ids = terms.queryDocumentIDs == nil ? documentIDs : nil
        return SequenceShard.all(positions, documents: ids, length: length)
    }

    /// Inputs are drawn in this type and then rounded to `dtype`.
    private var wide: DType { dtype.accumulator }

    /// [B, T, heads, D] of the whole sequence.
    private func normal(_ stream: UInt64, _ heads: Int, on device: any Device) -> Tensor {
        .random(.normal, [batch, length, heads, headSize], wide, key: seed &* 1_000 &+ stream, on: device)
    }

    private func queries(on device: any Device) -> Tensor {
        let whole = normal(1, heads, on: device)
        let signs = (0..<length).map { $0 % 2 == 0 ? 1.0 : -1.0 }
        switch numbers {
        case .normal: return whole * spread
        case .extreme: return whole.replacingFirstFeature(by: signs, 1e4 * Double(headSize).squareRoot())
        case .steps: return whole.replacingFirstFeature(by: signs, Double(headSize).squareRoot())
        }
    }

    private func keys(on device: any Device) -> Tensor {
        let whole = normal(2, keyHeads, on: device)
        switch numbers {
        case .normal: return whole
        case .extreme:
            let signs = Tensor.random(.normal, [length], .float64, key: seed &* 1_000 &+ 9, on: device)
            return whole.replacingFirstFeature(by: signs.doubles.map { $0 < 0 ? -1 : 1 }, 1)
        case .steps: return whole.replacingFirstFeature(by: (0..<length).map { Double(8 * $0 / length) }, 200)
        }
    }

    /// The document of every token, [T] or [B, T].
    private var documentIDs: [Int32]? {
        if let ids = terms.documentIDs {
            precondition(ids.count == length || ids.count == batch * length, "one document id a token wanted")
            return ids
        }
        guard let lengths = terms.documentLengths else { return nil }
        precondition(lengths.reduce(0, +) == length, "documents must fill the sequence")
        return lengths.enumerated().flatMap { [Int32](repeating: Int32($0.offset), count: $0.element) }
    }

    private func mask(at own: Positions, on device: any Device) -> AttentionMask {
        var mask = AttentionMask(causal: terms.causal, window: terms.window, softCap: terms.softCap)
        if let ids = documentIDs {
            func shard(_ ids: [Int32]) -> Tensor {
                Tensor(ids, [length == 0 ? 1 : ids.count / length, length], on: device).shard(axis: 1, at: own)
            }
            mask.documents = .init(queries: shard(terms.queryDocumentIDs ?? ids), keys: shard(ids))
        }
        if terms.alibi { mask.alibiSlopes = (0..<heads).map { 0.5 / Double(1 << ($0 % 8)) } }
        if terms.sinks {
            mask.sinks = Tensor.random(.normal, [heads], wide, key: seed &* 1_000 &+ 7, on: device)
        }
        if let axes = terms.biasAxes {
            let shape = zip(axes, [batch, heads, length, length]).map { $0 ? $1 : 1 }
            var whole = Tensor.random(.normal, shape, wide, key: seed &* 1_000 &+ 8, on: device)
            if terms.hiddenShare > 0 {
                let draws = Tensor.random(.uniform, shape, wide, key: seed &* 1_000 &+ 10, on: device)
                let (share, hidden) = (
                    Tensor.scalar(terms.hiddenShare, wide, on: device), Tensor.scalar(-.infinity, wide, on: device)
                )
                whole = .select(draws < share, hidden, whole)
            }
            mask.bias = axes[2] ? whole.shard(axis: 2, at: own) : whole
        }
        if let dropout = terms.dropout { mask.dropout = .init(probability: dropout, seed: seed) }
        return mask
    }
}

extension Tensor {
    /// [B, T, heads, D] with feature 0 of every token replaced by its value times `scale`.
    fileprivate func replacingFirstFeature(by values: [Double], _ scale: Double) -> Tensor {
        let feature = Tensor(values, [1, values.count, 1, 1], on: device).cast(to: dtype) * scale
        return .concatenate(
            [feature.broadcast(to: [shape[0], shape[1], shape[2], 1]), slice(axis: 3, 1..<shape[3])], axis: 3)
    }
}
