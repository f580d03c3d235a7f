import AttentionCore
import DataCore
import DistributedCore
import NeuralCore
import TensorCore

/// Trains a language model on one rank; every rank runs the same trainer over the same batches.
///
/// Batches are cut over the mesh: each rank computes the loss of the tokens it holds (attention reaches the other parts of a sequence
/// through the backend), and gradients are summed in the order of ranks, so that all ranks with the same weights take the same step to
/// the bit. Weights, gradients and optimizer state lie as the sharding says.
public struct Trainer<Model: LanguageModel>: ModelTrainer {
    public private(set) var model: Model
    public private(set) var optimizer: any Optimizer
    public private(set) var loader: DataLoader
    public private(set) var step = 0
    public private(set) var skipped = 0
    private var skippedInARow = 0
    public let plan: TrainingPlan
    public let mesh: ProcessMesh
    private let attention: any AttentionBackend
    private let device: any Device

    /// - Parameters:
    ///   - model: with those parts of its parameters that `mesh.sharding` gives this rank.
    ///   - attention: over `mesh.sequence`.
    public init(
        _ model: consuming Model, optimizer: any Optimizer, loader: DataLoader, plan: TrainingPlan,
        attention: any AttentionBackend, mesh: ProcessMesh
    ) {
        self.model = model
        self.optimizer = optimizer
        self.loader = loader
        self.plan = plan
        self.attention = attention
        self.mesh = mesh
        device = mesh.world.device
    }

    public mutating func takeStep() throws -> StepReport {
        var accumulation = GradientAccumulation<Model>()
        var (lossSum, targets, tokens) = (0.0, 0, 0)
        for _ in 0..<plan.accumulate {
            let batch = loader.next()
            targets += batch.targetCount
            tokens += batch.tokens.count
            let shard = BatchShard(batch, layout: plan.layout, shares: plan.shares, mesh: mesh, on: device)
            let context = shard.context(attention, mesh.sharding, plan.precision, plan.memory)
            let (loss, gradient) = try valueAndGradient(at: model) { model in
                try model.loss(shard.tokens, targets: shard.targets, context)
            }
            lossSum += loss.item
            accumulation.add(consume gradient)
        }
        guard var gradient = accumulation.take() else { fatalError("Trainer: nothing was accumulated") }
        lossSum = try mesh.replicas.allReduce(lossSum)
        // Sharded parameters' gradients have been summed where they came up.
        if mesh.replicas.size > 1 && mesh.sharding.rows == nil {
            try gradient.forEachParameter { _, leaf in
                leaf = try mesh.replicas.allReduce(leaf)
                leaf.storage.reclassify(as: .gradients)
            }
        }
        let count = Double(max(1, targets))
        let sumNorm = try mesh.sharding.globalNorm(of: gradient, tensorAxis: model.tensorAxis)
        let (loss, norm) = (lossSum / count, sumNorm / count)
        let rate = plan.schedule.rate(at: step)
        step += 1
        var report = StepReport(
            step: step, loss: loss, gradientNorm: norm, rate: rate, targets: targets, tokens: tokens, skipped: false)
        // Every rank has the same sums, so all decide alike.
        if !loss.isFinite || !norm.isFinite {
            skipped += 1
            skippedInARow += 1
            if plan.onNonFinite == .stop || skippedInARow == TrainingPlan.skipLimit {
                throw RingZooError(
                    .failed,
                    "step \(step): the \(loss.isFinite ? "gradient" : "loss") is not finite (loss \(loss))"
                        + (skippedInARow > 1 ? ", like those of the \(skippedInARow - 1) steps before" : ""),
                    tried: [
                        "the last checkpoint is from before; lower optimizer.rate, check the data"
                            + (plan.onNonFinite == .stop ? ", or set run.onNonFinite: skip" : "")
                    ])
            }
            report.skipped = true
            return report
        }
        skippedInARow = 0
        optimizer.update(
            &model, gradient: consume gradient, rate: rate,
            gradientScale: clippingScale(norm: norm, limit: plan.clip) / count)
        try device.ledger.checkFailure()
        return report
    }

    public func evaluate(_ batches: some Sequence<Batch>) throws -> (loss: Double, targets: Int) {
        let evaluator = Evaluator(
            layout: plan.layout, shares: plan.shares, precision: plan.precision, memory: plan.memory,
            attention: attention, mesh: mesh)
        return try evaluator.evaluate(model, batches)
    }
}

// MARK: Saving and going on

extension Trainer {
    public var state: TrainingState {
        TrainingState(step: step, skipped: skipped, optimizerStep: optimizer.step, position: loader.position)
    }

    public mutating func restore(
        _ state: TrainingState, saved: [String: SavedForm], read: (String) throws -> Tensor
    ) throws {
        try optimizer.restore(step: state.optimizerStep, saved: saved, read: read)
        step = state.step
        skipped = state.skipped
        loader.position = state.position
    }

    public mutating func loadWeights(_ body: (inout Model) throws -> Void) rethrows { try body(&model) }
}
