import Synchronization
import TensorCore

extension ParameterSharding {
    /// A module with all rows of its parameters, of which this rank keeps some; the gradient of each is summed over the ranks, and every
    /// rank gets its own rows of it. One message to each rank forward, one for each parameter backward.
    ///
    /// - Parameter type: what parameters travel in, where it is not their own: values are rounded to it, and have their own type again
    ///   when they have arrived. Gradients travel, and are summed, in the parameter's own type: a sum of parts that were rounded is not
    ///   what one rank would have got.
    public func gathered<M: Module>(_ module: M, sentAs type: DType? = nil) throws -> M {
        guard let rows else { return module }
        return try module.joined(rows.startAllGather(module.rows(sentAs: type)), over: rows)
    }

    /// The same for one parameter.
    public func gathered(_ parameter: Tensor, sentAs type: DType? = nil) throws -> Tensor {
        try gathered(SingleParameter(tensor: parameter), sentAs: type).tensor
    }
}

private struct SingleParameter: Module {
    var tensor: Tensor

    mutating func visit(_ visitor: inout ParameterVisitor) { visitor("", &tensor) }
}

/// Gathers the blocks of a model one after the other, each while the one before it is computed: in the order of the forward pass, and
/// in the other one where the backward pass computes them again.
///
/// Memory: the whole parameters of the block in use, and those of the next as they arrive, in the type they travel in.
public final class BlockGathering<Block: Module>: Sendable {
    private let blocks: [Block]
    private let ranks: any Communicator
    private let type: DType?
    private let arriving = Mutex<[Int: any PendingGather]>([:])

    /// - Parameters:
    ///   - blocks: of which each rank keeps some rows.
    ///   - type: what parameters travel in; see `ParameterSharding.gathered`.
    public init(_ blocks: [Block], over ranks: any Communicator, sentAs type: DType? = nil) {
        self.blocks = blocks.map(\.detached)
        self.ranks = ranks
        self.type = type
    }

    /// Block `index` with all rows of its parameters, from its shards, which stand on a tape in the backward pass alone (`rematerialise`).
    public func whole(_ index: Int, _ shards: Block) throws -> Block {
        let isBackward = shards.parameters.contains { $0.tensor.isTracked }
        let pending = try arriving.withLock { $0.removeValue(forKey: index) } ?? start(index)
        let block = try shards.joined(pending, over: ranks)
        let following = isBackward ? index - 1 : index + 1
        if blocks.indices.contains(following) {
            let next = try start(following)
            arriving.withLock { $0[following] = next }
        }
        return block
    }

    private func start(_ index: Int) throws -> any PendingGather {
        try ranks.startAllGather(blocks[index].rows(sentAs: type))
    }
}

extension Module {
    fileprivate var detached: Self {
        var copy = self
        copy.forEachParameter { _, parameter in parameter = parameter.detached }
        return copy
    }

    /// This rank's rows of all parameters.
    fileprivate func rows(sentAs type: DType?) -> Message {
        Message(parameters.map { $0.tensor.detached.cast(to: type ?? $0.tensor.dtype) })
    }

    /// The parameters of all ranks' rows, in place of this rank's.
    fileprivate func joined(_ pending: any PendingGather, over ranks: any Communicator) throws -> Self {
        // By rank, the last parameter first: what has been joined is let go of, so that only one parameter is there twice.
        var pieces = try pending.wait().map { Array($0.tensors.reversed()) }
        var whole = self
        whole.forEachParameter { _, parameter in
            let joined = Tensor.concatenate(pieces.indices.map { pieces[$0].removeLast() }, axis: 0)
                .cast(to: parameter.dtype)
            parameter = Tensor.record("gather parameter", inputs: [parameter], output: joined) { gradient in
                [try ranks.reduceScatter(gradient)]
            }
        }
        return whole
    }
}
