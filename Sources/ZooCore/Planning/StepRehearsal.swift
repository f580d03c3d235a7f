import AttentionCore
import DataCore
import DistributedCore
import NeuralCore
import TensorCore
import TrainingCore

/// What one training step takes on one rank, found by running it where nothing is computed (`RehearsalDevice`): the model, the
/// trainer, the optimizer and the ring are the ones that train.
public struct StepRehearsal: Sendable, Hashable {
    /// What is rehearsed.
    public struct Setting: Sendable {
        /// Tokens of a row, over all ranks.
        public var context: Int
        public var batch = 1
        /// Micro-batches of an update.
        public var accumulate = 1
        /// How the ranks share the work, and which of those of the sequence is looked at.
        public var mesh = ProcessMesh.Shape()
        public var rank = 0
        /// Whether rows of parameters lie over the ranks.
        public var shardParameters = false
        public var layout = SequenceLayout.zigzag
        /// The ranks' parts of the sequence in relation to each other; nil for equal parts.
        public var shares: [Int]?
        public var precision = NeuralCore.Precision.float32
        public var memory = SequenceContext.MemoryPlan()
        /// Tokens of each document of a row (`Dataset.documentLength`); nil where a row is one document.
        public var documentLength: Int?
        /// Bytes of activations and ring buffers that a rank may hold (`memory.budget`); nil for as many as there are.
        public var budget: Int?

        public init(context: Int) { self.context = context }

        /// A step of a training run, on rank 0.
        public init(of run: TrainingRun) {
            context = run.dataset.options.context
            batch = run.config.data.batch
            accumulate = run.plan.accumulate
            mesh = run.mesh
            shardParameters = run.config.parallel.shardParameters
            layout = run.plan.layout
            shares = run.plan.shares
            precision = run.plan.precision
            memory = run.plan.memory
            documentLength = run.dataset.documentLength
            budget = run.config.memory.budget
        }

        /// How the work is shared and what is computed again, in the words of a config.
        public var words: String {
            "parallel: { data: \(mesh.data), sequence: \(mesh.sequence), tensor: \(mesh.tensor)"
                + (shardParameters ? ", shardParameters: true" : "") + " },"
                + " memory: { rematerialise: \(memory.rematerialiseBlocks ? "block" : "none") }"
        }
    }

    /// Most bytes at once, by kind.
    public let peakBytes: [MemoryKind: Int]
    /// Most bytes at once, of all kinds together.
    public let peakOfAll: Int
    public let seconds: Double
    public let spending: [RehearsalDevice.Part: RehearsalDevice.Spending]
    /// What this rank sends to those that share its sequence, and to all.
    public let traffic, totalTraffic: Traffic

    /// Peak bytes of weights, gradients and optimizer state.
    public var stateBytes: Int {
        peakBytes.reduce(0) { $1.key == .working ? $0 : $0 + $1.value }
    }
    /// Peak bytes of activations and ring buffers.
    public var workingBytes: Int { peakBytes[.working] ?? 0 }
    /// Floating-point operations of products and attention, on this rank.
    public var flops: Double { spending.values.reduce(0) { $0 + $1.flops } }

    /// - Parameters:
    ///   - workers: threads of the rank's device.
    ///   - log: where each operation is noted.
    public init(
        of training: PlannedTraining, _ setting: Setting, on speed: DeviceSpeed, workers: Int, link: LinkSpeed,
        log: OperationLog? = nil
    ) throws {
        let device = RehearsalDevice(speed: speed, workers: workers, log: log, documentLength: setting.documentLength)
        let shared = RehearsalLink(link)
        func group(_ size: Int, rank: Int = 0) -> RehearsalCommunicator {
            RehearsalCommunicator(
                rank: rank, size: size, length: setting.context, layout: setting.layout,
                shares: size == setting.mesh.sequence ? setting.shares : nil, link: shared, on: device)
        }
        let shape = setting.mesh
        let ranks = group(shape.sequence, rank: setting.rank)
        let replicas = shape.data == 1 ? ranks : group(shape.data * shape.sequence, rank: setting.rank)
        let tensor = shape.tensor == 1 ? nil : group(shape.tensor)
        let mesh = ProcessMesh(
            shape, shardParameters: setting.shardParameters,
            world: shape.ranks == shape.sequence ? ranks : group(shape.ranks), sequence: ranks, replicas: replicas,
            tensor: tensor)
        let sharded = try ShardedBlueprint(training.blueprint, mesh.sharding)
        let rowRanks = sharded.sharding.rows?.size ?? 1
        if !sharded.hasEvenRows(over: rowRanks, tensorRanks: shape.tensor) {
            throw RingZooError(
                .config,
                "a plan takes \(rowRanks) ranks to keep equally many rows of each parameter, which these do not",
                tried: ["a number of ranks that divides the model's sizes would work"])
        }
        var plan = TrainingPlan(
            steps: 2, schedule: try Schedule(.constant, rate: 1e-3, finalRate: 0, warmup: 0, steps: 2))
        plan.accumulate = setting.accumulate
        plan.layout = setting.layout
        plan.shares = setting.shares
        plan.precision = setting.precision
        plan.memory = setting.memory
        let attention = training.attention
        let backend = try log == nil ? attention.make(over: ranks) : attention.makeNoted(over: ranks)
        func makeTrainer(_ model: some LanguageModel) throws -> any ModelTrainer {
            let rows = BlankRows(
                context: setting.context, documentLength: setting.documentLength ?? setting.context)
            let loader = DataLoader(rows, rowsPerBatch: setting.batch, seed: 1)
            return Trainer(
                model, optimizer: try training.optimizer(model), loader: loader, plan: plan, attention: backend,
                mesh: mesh)
        }
        // Nobody else holds the model, or its weights would be copied before they are updated.
        var trainer = try makeTrainer(sharded.makeBlank(on: device))
        device.ledger.resetPeak()
        device.startClock()
        log?.clear()
        _ = try trainer.takeStep()
        let kinds = MemoryKind.allCases.map { ($0, device.ledger.peak($0)) }
        peakBytes = Dictionary(uniqueKeysWithValues: kinds)
        peakOfAll = device.ledger.peakOfAll
        seconds = device.clock
        spending = device.spending
        traffic = ranks.traffic
        let others = [shape.data == 1 ? nil : replicas, tensor].compactMap { $0?.traffic }
        totalTraffic = others.reduce(ranks.traffic) {
            Traffic(messages: $0.messages + $1.messages, bytes: $0.bytes + $1.bytes)
        }
    }
}

/// Rows of token 0, all of which are learned, in documents of equal length.
private struct BlankRows: RowSource {
    let context, documentLength: Int
    let rowCount = 1

    func append(row index: Int, to batch: inout Batch) {
        var writer = RowWriter(&batch, resetPositions: false)
        for start in stride(from: 0, to: context, by: documentLength) {
            let tokens = [Int32](repeating: 0, count: min(documentLength, context - start))
            writer.appendDocument(tokens: tokens[...], targets: tokens)
        }
        batch = writer.finish()
    }
}
