import AttentionCore
import CheckpointCore
import DataCore
import DistributedCore
import Foundation
import NeuralCore
import TensorCore
import TrainingCore

/// A training or fine-tuning run from a config: everything that can be wrong before the first step is found while it is made.
public struct TrainingRun: Sendable {
    public let config: RunConfig
    public let blueprint: any ModelBlueprint
    public let family: any ModelFamily
    public let tokenizer: any Tokenizer
    public let dataset: Dataset
    public let attention: AttentionChoice
    public let ranks: RankChoice
    /// How the ranks share the work.
    public let mesh: ProcessMesh.Shape
    public let plan: TrainingPlan
    /// What was decided for the user, one line each.
    public let notes: [String]
    private let start: StoredModel?
    private let zoo: Zoo
    /// Worker threads of this process; nil for one per core.
    let threads: Int?

    /// - Parameter threads: worker threads over all ranks; nil for one per core.
    /// - Throws: `.config`, `.missingInput`, `.corruptInput`, naming what is at fault.
    public init(_ config: RunConfig, in zoo: Zoo, threads: Int? = nil) throws {
        self.zoo = zoo
        self.threads = threads
        let start = try config.model.from.map { try StoredModel($0, in: zoo) }
        self.start = start
        if let start {
            family = start.family
            if let name = config.model.name, name != start.family.name {
                throw RingZooError(
                    .config,
                    "\(Self.prefix(config, "model.name"))model.name is '\(name)', but \(config.model.from!) holds a '\(start.family.name)'",
                    tried: ["leave model.name out: the checkpoint says it"])
            }
            if let preset = config.model.preset {
                throw RingZooError(
                    .config,
                    "\(Self.prefix(config, "model.preset"))model.preset is '\(preset)', but model.from is a checkpoint",
                    tried: ["leave model.preset out: the checkpoint has its own sizes"])
            }
            blueprint = try start.family.blueprint(
                preset: nil, fields: config.model.fields.over(start.blueprint.fields))
        } else {
            family = try zoo.models.entry(config.model.name ?? "", at: config.place(of: "model.name"))
            blueprint = try family.blueprint(preset: config.model.preset, fields: config.model.fields)
        }

        var config = config
        if config.data.tokenizer == Self.storedTokenizer
            || start?.tokenizer != nil && config.place(of: "data.tokenizer") == nil
        {
            guard let stored = start?.tokenizer else {
                throw RingZooError(
                    .config,
                    "\(Self.prefix(config, "data.tokenizer"))data.tokenizer is '\(Self.storedTokenizer)', but "
                        + (config.model.from.map { "\($0) has none in it" } ?? "model.from names none"),
                    tried: ["tokenizers: \(zoo.tokenizers.names.joined(separator: ", "))"])
            }
            tokenizer = stored
            // The config that is written back must mean the same tokenizer when it is read.
            config.data.tokenizer = Self.storedTokenizer
        } else {
            let (name, path) = config.data.tokenizerNameAndPath
            tokenizer = try zoo.tokenizers.entry(name, at: config.place(of: "data.tokenizer")).make(path)
        }
        try tokenizer.requireFit(modelVocabularyCount: blueprint.vocabularySize)

        let context: Int
        switch config.data.context {
        case .auto: context = blueprint.context
        case .count(let count): context = count
        }
        let options = DatasetOptions(
            context: context, validation: config.data.validation, packing: config.data.packing,
            resetPositions: config.data.resetPositions, seed: config.run.seed)
        dataset = try zoo.datasets.entry(config.data.kind, at: config.place(of: "data.kind")).open(
            config.data.paths, tokenizer, options)

        attention = try AttentionChoice(config, in: zoo)
        ranks = try RankChoice(config, in: zoo)
        mesh = config.parallel.mesh
        try Self.check(mesh, config, blueprint)
        plan = try Self.plan(config)
        _ = try zoo.optimizers.entry(config.optimizer.name, at: config.place(of: "optimizer.name"))
        self.config = config
        notes =
            attention.notes + ranks.notes + [
                "model: \(family.name), \(grouped(blueprint.parameterCount)) parameters"
                    + (config.model.from.map { ", weights from \($0)" } ?? ""),
                "data: \(grouped(dataset.trainingTokenCount)) training and \(grouped(dataset.evaluationTokenCount)) validation tokens (\(tokenizer.name))",
                "attention: \(attention.description), \(ranks.ranks) rank\(ranks.ranks == 1 ? "" : "s"), layout \(plan.layout.rawValue)\(plan.shares.map { " in shares \($0)" } ?? ""), context \(context), batch \(config.data.batch)"
                    + (config.data.accumulate > 1 ? " x \(config.data.accumulate)" : ""),
            ]
            + (mesh.data * mesh.tensor > 1 || config.parallel.shardParameters
                ? [
                    "mesh: \(mesh)"
                        + (config.parallel.shardParameters
                            ? ", sharded parameters: blocks are computed again in the backward pass" : "")
                ] : [])
    }

    /// What `data.tokenizer` says where the tokenizer is the one inside `model.from`.
    static let storedTokenizer = "checkpoint"

    private static func prefix(_ config: RunConfig, _ key: String) -> String {
        config.place(of: key).map { "\($0): " } ?? ""
    }

    /// - Throws: `.config` where the batch or the model cannot be shared like this.
    private static func check(
        _ mesh: ProcessMesh.Shape, _ config: RunConfig, _ blueprint: any ModelBlueprint
    ) throws {
        if mesh.data > config.data.batch {
            throw RingZooError(
                .config,
                "\(prefix(config, "parallel.data"))parallel.data is \(mesh.data), but a batch has \(config.data.batch) row\(config.data.batch == 1 ? "" : "s") (data.batch)",
                tried: ["data.batch of at least \(mesh.data) would work"])
        }
        try blueprint.requireTensorRanks(
            mesh.tensor, askedBy: "\(prefix(config, "parallel.tensor"))parallel.tensor")
    }

    private static func plan(_ config: RunConfig) throws -> TrainingPlan {
        let optimizer = config.optimizer
        guard let decay = Schedule.Decay(rawValue: optimizer.schedule) else {
            throw RingZooError(
                .config,
                "\(prefix(config, "optimizer.schedule"))no schedule \"\(optimizer.schedule)\"",
                tried: ["schedules: \(Schedule.Decay.allCases.map(\.rawValue).joined(separator: ", "))"])
        }
        let schedule = try Schedule(
            decay, rate: optimizer.rate, finalRate: optimizer.rate * optimizer.finalRate,
            warmup: optimizer.warmup.steps(of: config.run.steps), steps: config.run.steps)
        var plan = TrainingPlan(steps: config.run.steps, schedule: schedule)
        plan.stopAfter = config.run.stopAfter
        plan.accumulate = config.data.accumulate
        plan.clip = optimizer.clip
        plan.evaluateEvery = config.run.evaluateEvery
        plan.checkpointEvery = config.run.checkpointEvery
        plan.onNonFinite = config.run.onNonFinite == .stop ? .stop : .skip
        switch config.attention.layout {
        // Both give every rank the same work under a causal mask; where documents share a row, only stripes do.
        case .auto: plan.layout = config.data.packing ? .striped : .zigzag
        case .zigzag: plan.layout = .zigzag
        case .contiguous: plan.layout = .contiguous
        case .striped: plan.layout = .striped
        }
        plan.shares = config.parallel.shares
        plan.precision = config.precision == .bf16 ? .bfloat16 : .float32
        func chunk(_ value: CountOrAuto) -> ChunkSize {
            switch value {
            case .auto: .auto
            case .count(let count): .tokens(count)
            }
        }
        plan.memory.rematerialiseBlocks = config.memory.rematerialise == .block
        plan.memory.feedForwardChunk = chunk(config.memory.feedForwardChunk)
        plan.memory.lossChunk = chunk(config.memory.lossChunk)
        return plan
    }

    public var checkpointFolder: String { config.run.directory + "/checkpoints" }

    func checkpointPath(ofStep step: Int) -> String { checkpointFolder + "/" + CheckpointDirectory.name(ofStep: step) }

    /// Trains. Events come from rank 0's thread.
    ///
    /// - Parameters:
    ///   - resume: go on from the newest whole checkpoint of the run's directory; without one, start.
    ///   - profile: record some steps (see `StepProfiler`), report them as `.profiled`, and write `trace.json` into the run's directory.
    ///   - stop: asked for between steps; the run then saves and ends.
    ///   - fileSystem: where checkpoints go.
    /// - Throws: the first error that a rank met; every rank ends with it.
    public func train(
        resume: Bool, profile: Bool = false, stop: StopRequest = StopRequest(),
        fileSystem: any FileSystem = POSIXFileSystem(),
        _ observe: @escaping @Sendable (TrainingEvent) throws -> Void
    ) throws -> TrainingSummary {
        // The run's directory is rank 0's; a process without it hears from rank 0 where the run goes on.
        let start = ranks.holdsFirstRank ? try openFolder(resume: resume, fileSystem) : nil
        let profiler = profile ? StepProfiler(ranks: ranks.ranks) : nil
        // Threads of ranks may end a moment after the run has returned; the folder's lock must not wait for them.
        return try withExtendedLifetime(start?.folder) {
            try ranks.run(
                as: RankIdentity(task: config.yaml), threads: threads, deadline: config.parallel.deadline
            ) { [weak folder = start?.folder, reader = start?.reader, damaged = start?.damaged] communicator, device in
                device.ledger.budget = config.memory.budget
                let rank = try RankRun(
                    self, folder: folder, stop: stop, world: communicator, profiler: profiler, observe: observe)
                return try rank.train(resumingFrom: reader, damaged: damaged ?? [])
            }
        }
    }

    /// What rank 0 starts from.
    private func openFolder(
        resume: Bool, _ fileSystem: any FileSystem
    ) throws -> (folder: CheckpointDirectory, reader: CheckpointReader?, damaged: [CheckpointDirectory.Damaged]) {
        let folder = try CheckpointDirectory(checkpointFolder, keep: config.run.keep, fileSystem: fileSystem)
        let existing = try folder.steps()
        if !resume, let newest = existing.last {
            throw RingZooError(
                .config, "\(config.run.directory) already holds a run (checkpoint of step \(newest))",
                tried: ["--resume goes on with it", "another run.directory starts a new one"])
        }
        let found = try folder.newest()
        if found.reader == nil, !found.damaged.isEmpty {
            // Starting again would write over what may still be rescued.
            throw RingZooError(
                .corruptInput, "no checkpoint in \(checkpointFolder) is whole",
                tried: found.damaged.map(\.error.message) + ["another run.directory starts a new run"])
        }
        return (folder, found.reader, found.damaged)
    }

    /// With the weights of a checkpoint of this run, else those it starts from, else random ones.
    func makeModel(
        _ sharded: ShardedBlueprint, _ checkpoint: CheckpointReader?, on device: any Device
    ) throws -> any LanguageModel {
        guard let reader = checkpoint ?? start?.reader else {
            return try sharded.make(seed: config.run.seed, on: device)
        }
        return try sharded.make(loading: reader, on: device)
    }

    func optimizer(for model: any LanguageModel) throws -> any Optimizer {
        try zoo.optimizers.entry(config.optimizer.name).make(config.optimizer, model)
    }

    /// The texts that go into each checkpoint.
    func checkpointTexts(_ state: some Encodable, threads: Int) throws -> [String: String] {
        func json(_ value: some Encodable) throws -> String {
            let encoder = JSONEncoder()
            encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
            return String(decoding: try encoder.encode(value), as: UTF8.self)
        }
        return [
            CheckpointText.model: StoredModel.modelText(family, blueprint),
            CheckpointText.config: config.yaml,
            CheckpointText.tokenizer: try json(tokenizer.form),
            CheckpointText.training: try json(state),
            CheckpointText.environment: try json(environment(threads: threads)),
        ]
    }

    private func environment(threads: Int) -> RunEnvironment {
        RunEnvironment(
            program: .this, ranks: ranks.ranks, mesh: "\(mesh)" + (config.parallel.shardParameters ? ", sharded" : ""),
            threadsPerRank: threads, attention: attention.description,
            products: "\(ProductChoice.standard), \(CPUDevice.productKernels)")
    }

    /// Says why going on from a checkpoint is not exact to the bit; nil where it is.
    func inexactness(of reader: CheckpointReader, threads: Int) -> String? {
        guard let text = reader.metadata[CheckpointText.environment],
            let earlier = try? JSONDecoder().decode(RunEnvironment.self, from: Data(text.utf8))
        else { return "the checkpoint does not say by what program and on how many ranks it was made" }
        return environment(threads: threads).difference(from: earlier)
    }
}

/// Digits in groups of three: 1,234,567.
public func grouped(_ number: Int) -> String {
    var text = ""
    for (i, digit) in String(number).reversed().enumerated() {
        if i > 0 && i % 3 == 0 && digit != "-" { text.append(",") }
        text.append(digit)
    }
    return String(text.reversed())
}
