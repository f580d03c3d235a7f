import AttentionCore
import CheckpointCore
import DataCore
import DistributedCore
import NeuralCore
import TensorCore

/// Everything that a config can choose by name.
///
/// A value that is built explicitly (the command line uses `ZooStandard.zoo()`); a plugin adds itself with one call per thing.
public struct Zoo: Sendable {
    public var models = Registry<any ModelFamily>("model")
    public var attention = Registry<any AttentionProvider>("attention backend")
    public var tokenizers = Registry<TokenizerProvider>("tokenizer")
    public var datasets = Registry<DatasetProvider>("kind of data")
    public var optimizers = Registry<OptimizerProvider>("optimizer")
    public var links = Registry<any LinkProvider>("link")

    public init() {}
}

/// A family of models: turns the `model` section of a config into a blueprint.
public protocol ModelFamily: Sendable {
    var name: String { get }
    /// One sentence for `ringzoo models`.
    var summary: String { get }
    /// Names of the ready-made sizes, smallest first.
    var presets: [String] { get }
    /// Decodes the family's own fields strictly, over those of a preset; calls `finish()` on the section.
    /// - Throws: `.config` naming the key, and the presets there are where one is not known.
    func blueprint(preset: String?, fields: ConfigTree) throws -> any ModelBlueprint
    /// How weights of other programs come in and go out; empty where there are none.
    var exchanges: [any WeightExchange] { get }
}

extension ModelFamily {
    public var exchanges: [any WeightExchange] { [] }
}

/// A model on paper: its sizes are known, nothing is allocated.
public protocol ModelBlueprint: Sendable {
    /// The number of trained values.
    var parameterCount: Int { get }
    var vocabularySize: Int { get }
    /// Tokens; what training uses unless the config says otherwise.
    var context: Int { get }
    /// Every field written out, so that `blueprint(preset: nil, fields:)` gives an equal model.
    var fields: ConfigTree { get }
    /// Makes the model with random weights that depend on the seed alone; with nil, weights are left for loading.
    func make(seed: UInt64?, on device: any Device) throws -> any LanguageModel
    /// What a parameter starts as in `make`, by its name and whole shape.
    func initialValue(of parameter: String, _ shape: [Int]) -> InitialValue
}

/// Reads and writes the weights of one family in another program's form.
public protocol WeightExchange: Sendable {
    /// The name on the command line, for example "huggingface".
    var name: String { get }
    /// Whether the folder or file looks like this form of this family.
    func recognises(_ path: String) -> Bool
    /// The blueprint, and the tensors under our names, streamed.
    func read(_ path: String) throws -> (blueprint: any ModelBlueprint, tensors: [TensorSource])
    /// Writes a folder in the other program's form, streamed. `maximumShardSize` in bytes.
    func write(_ path: String, fields: ConfigTree, tensors: any TensorCollection, maximumShardSize: Int) throws
}

/// A named attention backend.
public protocol AttentionProvider: Sendable {
    var name: String { get }
    /// One sentence for `ringzoo backends`.
    var summary: String { get }
    /// Empty when the backend can run on this machine; otherwise every reason, and what to install.
    func unavailableReasons() -> [String]
    /// True for a backend that spreads one problem over ranks by means of a local one.
    var isDistributed: Bool { get }
    /// True for a distributed backend whose queries every rank holds, as they are in decoding; whole sequences want one whose
    /// queries are cut over the ranks like the keys.
    var isForDecoding: Bool { get }
    /// - Parameters:
    ///   - local: the backend of each rank, for a distributed one.
    ///   - communicator: the ranks that share the sequence.
    func make(local: (any AttentionBackend)?, over communicator: (any Communicator)?) throws -> any AttentionBackend

    /// Whether some ranks share heads and others the rest of the sequence, so that `headRanks` says something.
    var takesHeadRanks: Bool { get }
    /// The same with so many ranks that share heads (`attention.headRanks`); nil for the backend's own choice.
    func make(
        local: (any AttentionBackend)?, over communicator: (any Communicator)?, headRanks: Int?
    ) throws -> any AttentionBackend
}

extension AttentionProvider {
    public var takesHeadRanks: Bool { false }

    public func make(
        local: (any AttentionBackend)?, over communicator: (any Communicator)?, headRanks: Int?
    ) throws -> any AttentionBackend {
        if headRanks != nil { fatalError("\(name): no ranks share heads here; see takesHeadRanks") }
        return try make(local: local, over: communicator)
    }
}

extension AttentionProvider {
    public var isForDecoding: Bool { false }
}

/// Makes a tokenizer from what the config says after its name ("gpt2:FOLDER").
public struct TokenizerProvider: Sendable {
    public var summary: String
    public var make: @Sendable (_ argument: String?) throws -> any Tokenizer

    public init(_ summary: String, make: @escaping @Sendable (_ argument: String?) throws -> any Tokenizer) {
        self.summary = summary
        self.make = make
    }
}

/// Opens a data set.
public struct DatasetProvider: Sendable {
    public var summary: String
    public var open: @Sendable (_ paths: [String], any Tokenizer, DatasetOptions) throws -> Dataset

    public init(
        _ summary: String,
        open: @escaping @Sendable (_ paths: [String], any Tokenizer, DatasetOptions) throws -> Dataset
    ) {
        self.summary = summary
        self.open = open
    }
}

/// Makes an optimizer for a model.
public struct OptimizerProvider: Sendable {
    public var summary: String
    public var make: @Sendable (OptimizerSection, any LanguageModel) throws -> any Optimizer

    public init(
        _ summary: String, make: @escaping @Sendable (OptimizerSection, any LanguageModel) throws -> any Optimizer
    ) {
        self.summary = summary
        self.make = make
    }
}
