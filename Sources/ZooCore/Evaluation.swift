import CheckpointCore
import DataCore
import DistributedCore
import Foundation
import NeuralCore
import TensorCore
import TrainingCore

/// Measures a checkpoint on the validation part of a config's data.
///
/// Of the config it uses `data`, `attention`, `parallel`, `precision` and `memory`; the model and its sizes are the checkpoint's.
public struct Evaluation: Sendable {
    public let checkpoint: String
    /// Batches to read at most; nil for all.
    public var limit: Int?
    /// What was decided for the user, one line each.
    public let notes: [String]
    private let run: TrainingRun
    private let threads: Int?

    /// What was measured.
    public struct Outcome: Sendable, Hashable {
        /// Mean per target, natural logarithm.
        public var loss: Double
        /// exp(loss).
        public var perplexity: Double
        /// All of the loss in bits, over the bytes of text that the targets stand for; nil where they stand for none.
        public var bitsPerByte: Double?
        public var targets: Int
        public var bytes: Int
        /// Tokens read, padding included.
        public var tokens: Int
        public var batches: Int
        public var ranks: Int
        public var seconds: Double
    }

    /// - Parameter threads: worker threads over all ranks; nil for one per core.
    /// - Throws: `.config`, `.missingInput`, `.corruptInput`, naming what is at fault; `.config` where the data has no validation part.
    public init(_ config: RunConfig, checkpoint: String, limit: Int? = nil, in zoo: Zoo, threads: Int? = nil) throws {
        let described = config.model
        var config = config
        // Sizes in the config are those of a model to be made; this one is there already.
        config.model.from = checkpoint
        config.model.preset = nil
        config.model.fields = .mapping([])
        run = try TrainingRun(config, in: zoo, threads: threads)
        notes = run.notes + Self.unused(described, checkpoint, run.blueprint, run.family)
        if run.dataset.evaluationTokenCount == 0 {
            let place = config.place(of: "data.validation").map { "\($0): " } ?? ""
            throw RingZooError(
                .config, "\(place)data.validation is \(config.data.validation), so there is nothing to evaluate on",
                tried: ["--set data.validation=0.1 takes the last tenth of the data"])
        }
        if let limit, limit < 1 {
            throw RingZooError(.usage, "a limit of \(limit) batches", tried: ["at least 1 would work"])
        }
        self.checkpoint = checkpoint
        self.limit = limit
        self.threads = threads
    }

    /// A line that says so where the config describes another model than the checkpoint holds.
    private static func unused(
        _ section: ModelSection, _ checkpoint: String, _ blueprint: any ModelBlueprint, _ family: any ModelFamily
    ) -> [String] {
        let stored = blueprint.fields
        let fields = section.preset == nil ? section.fields.over(stored) : section.fields
        // Fields that make no model are none of the checkpoint's either: they are not used, whatever they say.
        guard let other = try? family.blueprint(preset: section.preset, fields: fields).fields else { return [] }
        let differing = (other.entries ?? []).filter { $0.value != stored[$0.key] }.map { entry in
            "\(entry.key) \(stored[entry.key]?.written ?? "none") (\(entry.value.written) in the config)"
        }
        return differing.isEmpty ? [] : ["model: that of \(checkpoint), \(differing.joined(separator: ", "))"]
    }

    /// Tokens there are to read, about: padding is not counted.
    public var expectedTokens: Int {
        let all = run.dataset.evaluationTokenCount
        let rows = run.config.data.batch * run.dataset.options.context
        return limit.map { min(all, $0 * rows) } ?? all
    }

    /// Evaluates on the ranks that `parallel` asks for; `observe` gets the tokens read so far, on rank 0's thread.
    public func measure(_ observe: @escaping @Sendable (_ tokens: Int) throws -> Void = { _ in }) throws -> Outcome {
        let begin = Date()
        let reader = try CheckpointReader(checkpoint, verify: .whenRead)
        var outcome = try run.ranks.run(
            as: RankIdentity(task: run.config.yaml), threads: threads, deadline: run.config.parallel.deadline
        ) { communicator, device -> Outcome in
            device.ledger.budget = run.config.memory.budget
            let mesh = try ProcessMesh(
                run.mesh, shardParameters: run.config.parallel.shardParameters, over: communicator)
            let sharded = try ShardedBlueprint(run.blueprint, mesh.sharding)
            return try measure(sharded.make(loading: reader, on: device), mesh: mesh, observe)
        }
        outcome.seconds = Date().timeIntervalSince(begin)
        return outcome
    }

    private func measure(
        _ model: some LanguageModel, mesh: ProcessMesh, _ observe: (Int) throws -> Void
    ) throws -> Outcome {
        let evaluator = Evaluator(
            layout: run.plan.layout, shares: run.plan.shares, precision: run.plan.precision, memory: run.plan.memory,
            attention: try run.attention.make(over: mesh.sequence), mesh: mesh)
        let batches = run.dataset.evaluationBatches(rowsPerBatch: run.config.data.batch, limit: limit)
        var outcome = Outcome(
            loss: 0, perplexity: 0, bitsPerByte: nil, targets: 0, bytes: 0, tokens: 0, batches: 0,
            ranks: mesh.world.size, seconds: 0)
        (outcome.loss, outcome.targets) = try evaluator.evaluate(model, batches) { batch in
            outcome.batches += 1
            outcome.tokens += batch.tokens.count
            outcome.bytes += byteCount(of: batch)
            if mesh.world.rank == 0 { try observe(outcome.tokens) }
        }
        outcome.perplexity = exp(outcome.loss)
        if outcome.bytes > 0 {
            outcome.bitsPerByte = outcome.loss * Double(outcome.targets) / log(2) / Double(outcome.bytes)
        }
        return outcome
    }

    /// Bytes of text that the targets stand for. The token that ends a document stands for none: its loss counts, its name is no text.
    private func byteCount(of batch: Batch) -> Int {
        let text = batch.targets.filter {
            $0 != Batch.ignoredTarget && $0 != run.tokenizer.endToken && $0 != run.tokenizer.beginToken
        }
        return run.tokenizer.bytes(of: text).count
    }
}
