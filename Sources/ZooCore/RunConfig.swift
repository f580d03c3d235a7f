import DistributedCore
import TensorCore

/// Everything a run is told: one value for each section of the config file, all defaults filled in.
///
/// Read with `RunConfig(tree:)` or `load(path:overrides:)`; `yaml` writes it back, and reading that gives an equal value.
/// Names of registrable things (models, backends, data kinds, tokenizers, optimizers, schedules) stay names: the registry
/// that is asked for them knows which exist, and `place(of:)` tells it where the name was written.
public struct RunConfig: Sendable, Hashable {
    public var model: ModelSection
    public var attention: AttentionSection
    public var parallel: ParallelSection
    public var data: DataSection
    public var optimizer: OptimizerSection
    /// What the forward and backward pass compute in.
    public var precision: Precision
    public var memory: MemorySection
    public var run: RunSection
    var places = ConfigPlaces()

    /// Where a key was written, by its dotted name; nil where it has its default.
    public func place(of key: String) -> ConfigPlace? { places.byKey[key] }
}

/// `model`: which model, and where its weights come from.
public struct ModelSection: Sendable, Hashable {
    /// The registered name. Only a config with `from` may leave it out: the checkpoint says it.
    public var name: String?
    /// One of the model's own presets.
    public var preset: String?
    /// A checkpoint whose weights the run starts from.
    public var from: String?
    /// The size fields as they were written; the model decodes them (`ConfigSection(modelFields:)`).
    public var fields: ConfigTree
}

/// `attention`: who computes it, and how the sequence is cut.
public struct AttentionSection: Sendable, Hashable {
    /// How the ranks of a ring share the sequence.
    public enum Layout: String, Sendable, Hashable, CaseIterable {
        /// The one that gives all ranks the same work: striped where documents share a row (`data.packing`), zigzag otherwise.
        case auto
        case contiguous, zigzag, striped
    }

    /// The registered backend, or `auto`. Beside a strategy it may also name the backend of each rank.
    public var backend: String
    /// The registered backend that computes on each rank under a strategy, or `auto`.
    public var local: String
    public var layout: Layout
    /// Keys folded in at a time.
    public var block: CountOrAuto
    /// The registered distributed backend by which ranks share a sequence, or `auto`.
    public var strategy: String
    /// Ranks that share heads where others share the rest of the sequence (`mesh`); `auto` for the largest divisor of the ranks that
    /// also divides the key/value heads.
    public var headRanks: CountOrAuto
}

/// `parallel`: ranks on each axis of the mesh; their product is the number of ranks.
public struct ParallelSection: Sendable, Hashable {
    /// What carries messages between ranks.
    public enum Link: String, Sendable, Hashable, CaseIterable {
        case auto, threads, mpi
    }

    public var sequence: Int
    public var data: Int
    public var tensor: Int
    public var shardParameters: Bool
    public var link: Link
    /// Seconds without a word from a peer before that is an error.
    public var deadline: Double
    /// How fast the ranks are in relation to each other, and so how much of a sequence each gets, one whole number of at least 1 for each
    /// rank of `sequence`; nil: all the same.
    public var shares: [Int]?

    public var mesh: ProcessMesh.Shape { ProcessMesh.Shape(data: data, sequence: sequence, tensor: tensor) }
}

/// `data`: what is learned from.
public struct DataSection: Sendable, Hashable {
    /// The registered kind: `text`, `jsonl`.
    public var kind: String
    /// The files; `path` may be one path or a list. Empty where the kind needs none.
    public var paths: [String]
    /// The registered tokenizer, and after a colon the file or folder it is read from: `bytes`, `gpt2:tokenizer/`.
    public var tokenizer: String
    /// Tokens in a row; `auto` is the model's own context.
    public var context: CountOrAuto
    /// Rows in a batch.
    public var batch: Int
    /// Batches whose gradients are added before a step of the optimizer.
    public var accumulate: Int
    /// The share of the data, from its end, kept for evaluation.
    public var validation: Double
    /// Whether several records share a row.
    public var packing: Bool
    /// Whether positions restart at each document.
    public var resetPositions: Bool

    /// `tokenizer` cut at its first colon.
    public var tokenizerNameAndPath: (name: String, path: String?) {
        let parts = tokenizer.split(separator: ":", maxSplits: 1, omittingEmptySubsequences: false).map(String.init)
        return (parts[0], parts.count > 1 ? parts[1] : nil)
    }
}

/// `optimizer`: how weights are changed.
public struct OptimizerSection: Sendable, Hashable {
    /// How long the rate rises from 0; `warmup` below 1 is a share of all steps, from 1 on a number of steps.
    public enum Warmup: Sendable, Hashable {
        case share(Double)
        case steps(Int)

        /// The number of steps, of so many in all.
        public func steps(of total: Int) -> Int {
            switch self {
            case .share(let share): Int((share * Double(total)).rounded())
            case .steps(let steps): steps
            }
        }
    }

    /// The registered optimizer.
    public var name: String
    /// The highest learning rate.
    public var rate: Double
    /// The registered schedule: `cosine`, `linear`, `constant`.
    public var schedule: String
    public var warmup: Warmup
    /// The rate at the last step, as a share of `rate`: 0 to 1.
    public var finalRate: Double
    public var weightDecay: Double
    public var beta1: Double
    public var beta2: Double
    /// The largest norm of all gradients together; larger ones are scaled down to it. nil: never.
    public var clip: Double?
}

/// What the forward and backward pass compute in.
public enum Precision: String, Sendable, Hashable, CaseIterable {
    case float32
    /// bfloat16 with float32 master weights.
    case bf16
}

/// `memory`: what is traded for memory.
public struct MemorySection: Sendable, Hashable {
    /// What is computed again in the backward pass and not kept.
    public enum Rematerialise: String, Sendable, Hashable, CaseIterable {
        case none
        /// The inside of each block of the model.
        case block
    }

    public var rematerialise: Rematerialise
    /// Tokens the feed-forward layer works on at a time.
    public var feedForwardChunk: CountOrAuto
    /// Tokens the loss works on at a time.
    public var lossChunk: CountOrAuto
    /// Bytes a rank may hold; nil: as many as there are.
    public var budget: Int?
}

/// `run`: how long, where to, and how often.
public struct RunSection: Sendable, Hashable {
    /// What a loss or gradient that is not a finite number leads to.
    public enum OnNonFinite: String, Sendable, Hashable, CaseIterable {
        case stop
        /// The step changes nothing; ten such steps in a row end the run.
        case skip
    }

    /// The folder of checkpoints, metrics and the resolved config.
    public var directory: String
    /// Steps of the whole schedule.
    public var steps: Int
    /// A step after which the run ends early; the schedule stays that of `steps`.
    public var stopAfter: Int?
    /// Steps between evaluations; nil: never.
    public var evaluateEvery: Int?
    /// Steps between checkpoints; nil: only the last.
    public var checkpointEvery: Int?
    /// Checkpoints that are kept, the newest ones.
    public var keep: Int
    public var seed: UInt64
    public var onNonFinite: OnNonFinite
}

/// A number of things, or the program's choice.
public enum CountOrAuto: Sendable, Hashable {
    case auto
    case count(Int)
}

/// Where each key was written; no part of what a config says, so all are equal.
struct ConfigPlaces: Sendable, Hashable {
    var byKey: [String: ConfigPlace] = [:]

    static func == (a: ConfigPlaces, b: ConfigPlaces) -> Bool { true }
    func hash(into hasher: inout Hasher) {}
}
