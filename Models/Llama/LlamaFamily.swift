import NeuralCore
import TensorCore
import ZooCore

/// The LLaMA family under its name in configs, `llama`.
public struct LlamaFamily: ModelFamily {
    public init() {}

    public var name: String { "llama" }
    public var summary: String {
        "LLaMA 1 to 3: a language model with rotary positions, RMS norms, SwiGLU and grouped-query attention"
    }
    public var presets: [String] { LlamaConfiguration.presets.map(\.name) }
    public var exchanges: [any WeightExchange] { [HuggingFaceLlama()] }

    public func blueprint(preset: String?, fields: ConfigTree) throws -> any ModelBlueprint {
        var sizes = Registry<LlamaConfiguration>("preset of llama")
        for (name, configuration) in LlamaConfiguration.presets { try sizes.register(name, configuration) }
        var section = try ConfigSection(modelFields: fields)
        let configuration = try LlamaConfiguration(&section, over: preset.map { try sizes.entry($0) })
        try section.finish()
        return LlamaBlueprint(configuration)
    }
}

/// A model of the LLaMA family on paper.
public struct LlamaBlueprint: ModelBlueprint, Hashable {
    public let configuration: LlamaConfiguration

    public init(_ configuration: LlamaConfiguration) { self.configuration = configuration }

    public var parameterCount: Int { configuration.parameterCount }
    public var vocabularySize: Int { configuration.vocabulary }
    public var context: Int { configuration.context }
    public var fields: ConfigTree { configuration.fields }

    /// Float32 weights. With a seed they are normal with deviation 0.02, but for the two projections of each layer that add to the
    /// residual stream: theirs is smaller by sqrt(2 layers), so that the stream does not grow with depth (Radford et al. 2019, GPT-2).
    /// Norms are 1. The numbers depend on the seed, the parameter's name and the place in it alone.
    public func make(seed: UInt64?, on device: any Device) throws -> any LanguageModel {
        var model = try Llama(configuration, on: device)
        if let seed {
            model.initialise(seed: seed) { name, shape in
                if case .normal(let deviation) = initialValue(of: name, shape) { deviation } else { nil }
            }
        }
        try device.ledger.checkFailure()
        return model
    }

    public func initialValue(of parameter: String, _ shape: [Int]) -> InitialValue {
        if shape.count < 2 { return .constant(1) }
        let addsToStream = parameter.hasSuffix(".o_proj.weight") || parameter.hasSuffix(".down_proj.weight")
        return .normal(standardDeviation: addsToStream ? 0.02 / Double(2 * configuration.layers).squareRoot() : 0.02)
    }
}
