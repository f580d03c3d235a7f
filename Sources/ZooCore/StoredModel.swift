import CheckpointCore
import DataCore
import DistributedCore
import Foundation
import NeuralCore
import TensorCore

/// What a checkpoint says about itself beside its tensors; each entry is a small text in the file.
public enum CheckpointText {
    /// The model section of the config with every field: name and sizes.
    public static let model = "model"
    /// The whole config of the run, as YAML.
    public static let config = "config"
    /// A `TokenizerForm` as JSON.
    public static let tokenizer = "tokenizer"
    /// A `TrainingState` as JSON.
    public static let training = "training"
    /// Program, ranks, threads and kernel sets: what a bit-exact resume depends on, as JSON.
    public static let environment = "environment"
    /// Tensor names begin with one of these.
    public static let weights = "model."
    public static let optimizer = "optimizer."
}

/// A checkpoint of a model: verified, with everything needed to make the model and its tokenizer again.
public struct StoredModel: Sendable {
    public let reader: CheckpointReader
    public let family: any ModelFamily
    public let blueprint: any ModelBlueprint
    /// The tokenizer the model was trained with; nil where the checkpoint has none (imported weights).
    public let tokenizer: (any Tokenizer)?

    /// - Throws: `.missingInput`, `.corruptInput` naming file and part, `.config` where the model's family is not registered.
    public init(_ path: String, in zoo: Zoo) throws {
        let reader = try CheckpointReader(path)
        guard let text = reader.metadata[CheckpointText.model] else {
            throw RingZooError(
                .corruptInput, "\(path) does not say which model it holds",
                tried: ["a checkpoint written by 'ringzoo train' or 'ringzoo checkpoint import' would work"])
        }
        var section = try ConfigSection(ConfigTree(yaml: text, source: "\(path) (model)"), name: "model")
        let name = try section.text("name")
        family = try zoo.models.entry(name)
        blueprint = try family.blueprint(preset: nil, fields: section.rest())
        tokenizer = try reader.metadata[CheckpointText.tokenizer].map { text in
            do {
                return try JSONDecoder().decode(TokenizerForm.self, from: Data(text.utf8)).makeTokenizer()
            } catch let error as DecodingError {
                throw RingZooError(.corruptInput, "\(path): the tokenizer in it cannot be read", underlying: error)
            }
        }
        self.reader = reader
    }

    /// The model with its weights, or with a rank's part of them, on a device. Memory: one parameter whole at a time beside the part.
    public func makeModel(
        _ sharding: ParameterSharding = ParameterSharding(), on device: any Device
    ) throws -> any LanguageModel {
        try ShardedBlueprint(blueprint, sharding).make(loading: reader, on: device)
    }

    /// What a checkpoint says about its model: name and every field, as YAML.
    public static func modelText(_ family: any ModelFamily, _ blueprint: any ModelBlueprint) -> String {
        blueprint.fields.over(.mapping([("name", .text(family.name))])).yaml
    }
}
