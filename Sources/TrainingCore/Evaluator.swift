import AttentionCore
import DataCore
import DistributedCore
import NeuralCore
import TensorCore

/// Computes the loss of a model over batches on one rank; every rank runs the same evaluator over the same batches, and holds the
/// weights that the mesh gives it.
public struct Evaluator: Sendable {
    /// How the sequence is cut over the ranks.
    public var layout: SequenceLayout
    /// The ranks' parts of it in relation to each other; nil for equal parts.
    public var shares: [Int]?
    public var precision: Precision
    public var memory: SequenceContext.MemoryPlan
    private let attention: any AttentionBackend
    private let mesh: ProcessMesh

    public init(
        layout: SequenceLayout, shares: [Int]? = nil, precision: Precision, memory: SequenceContext.MemoryPlan,
        attention: any AttentionBackend, mesh: ProcessMesh
    ) {
        self.layout = layout
        self.shares = shares
        self.precision = precision
        self.memory = memory
        self.attention = attention
        self.mesh = mesh
    }

    /// Mean loss per target, natural logarithm, the same on every rank; 0 of 0 targets where there are no batches.
    ///
    /// `observe` is called after each batch.
    /// - Throws: a device's or a peer's failure, and what `observe` throws.
    public func evaluate(
        _ model: some LanguageModel, _ batches: some Sequence<Batch>, observe: (Batch) throws -> Void = { _ in }
    ) throws -> (loss: Double, targets: Int) {
        var (lossSum, targets) = (0.0, 0)
        for batch in batches {
            let shard = BatchShard(batch, layout: layout, shares: shares, mesh: mesh, on: mesh.world.device)
            let context = shard.context(attention, mesh.sharding, precision, memory)
            lossSum += try model.loss(shard.tokens, targets: shard.targets, context).item
            targets += batch.targetCount
            try observe(batch)
        }
        try mesh.world.device.ledger.checkFailure()
        return (try mesh.replicas.allReduce(lossSum) / Double(max(1, targets)), targets)
    }
}
