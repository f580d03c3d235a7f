import Foundation
import NeuralCore
import TensorCore
import ZooCore

extension LlamaConfiguration {
    /// The sizes in a `config.json` of transformers, in the form before version 5 (`rope_theta`, `rope_scaling`) or since
    /// (`rope_parameters`). JSON is YAML, so messages name the line.
    ///
    /// Keys that do not change what the model computes are not looked at. Defaults are those of transformers' own class.
    /// - Throws: `.config` naming the line, for what cannot be read and for what `Llama` does not compute.
    init(huggingFace tree: ConfigTree) throws {
        var config = try ConfigSection(tree, name: "")
        try config.refuseUnsupported()
        let (width, heads) = (
            try config.integer("hidden_size", .atLeast(1)), try config.integer("num_attention_heads", .atLeast(1))
        )
        let context = try config.integer("max_position_embeddings", default: 2048, .atLeast(1))
        let rope = try HuggingFaceRope(&config, context: context)
        self.init(
            width: width, layers: try config.integer("num_hidden_layers", .atLeast(1)), heads: heads,
            keyHeads: try config.optionalInteger("num_key_value_heads", .atLeast(1)),
            headSize: try config.optionalInteger("head_dim", .atLeast(1)),
            feedForward: try config.integer("intermediate_size", .atLeast(1)),
            vocabulary: try config.integer("vocab_size", .atLeast(1)),
            tied: try config.flag("tie_word_embeddings", default: false),
            normEpsilon: try config.number("rms_norm_eps", default: 1e-6, .above(0)), ropeBase: rope.base,
            ropeScaling: rope.scaling, context: context)
        if config.tree("head_dim").map({ $0.content == .null }) ?? true, width % heads != 0 {
            throw config.refusal(
                "hidden_size", "\(width) is not a multiple of num_attention_heads \(heads)", "head_dim")
        }
        try check()
    }

    /// The text of a `config.json`: rotary settings in the form before version 5, which later versions read as well.
    /// - Throws: `.config` for rotary settings that transformers would read as something else.
    func huggingFace(weights dtype: DType) throws -> String {
        let (scaling, length) = try ropeScaling.huggingFace(context: context)
        let entries: [(String, String)] = [
            ("architectures", "[\"LlamaForCausalLM\"]"), ("attention_bias", "false"), ("attention_dropout", "0.0"),
            ("bos_token_id", "null"), ("eos_token_id", "null"), ("head_dim", "\(headSize)"), ("hidden_act", "\"silu\""),
            ("hidden_size", "\(width)"), ("initializer_range", "0.02"), ("intermediate_size", "\(feedForward)"),
            ("max_position_embeddings", "\(length)"), ("mlp_bias", "false"), ("model_type", "\"llama\""),
            ("num_attention_heads", "\(heads)"), ("num_hidden_layers", "\(layers)"),
            ("num_key_value_heads", "\(keyHeads)"), ("rms_norm_eps", "\(normEpsilon)"), ("rope_scaling", scaling),
            ("rope_theta", "\(ropeBase)"), ("tie_word_embeddings", "\(tied)"), ("torch_dtype", "\"\(dtype.rawValue)\""),
            ("vocab_size", "\(vocabulary)"),
        ]
        return "{\n" + entries.map { "  \"\($0)\": \($1)" }.joined(separator: ",\n") + "\n}\n"
    }
}

/// The rotary settings of a `config.json`.
struct HuggingFaceRope: Equatable {
    var base: Double
    var scaling: RotaryScaling

    /// - Parameter context: `max_position_embeddings`, which some kinds refer to.
    init(_ config: inout ConfigSection, context: Int) throws {
        let outer = try config.optionalNumber("rope_theta", .above(1))
        let original = try config.optionalInteger("original_max_position_embeddings", .atLeast(1))
        func read(_ key: String) throws -> HuggingFaceRope? {
            guard let tree = config.tree(key), tree.content != .null else { return nil }
            var section = try ConfigSection(tree, name: key)
            return HuggingFaceRope(
                base: try section.optionalNumber("rope_theta", .above(1)) ?? outer ?? 10_000,
                scaling: try RotaryScaling(huggingFace: &section, original: original, context: context))
        }
        let (old, new) = (try read("rope_scaling"), try read("rope_parameters"))
        if let old, let new, old != new {
            throw config.refusal("rope_parameters", "says something else than rope_scaling", "one of the two alone")
        }
        self = new ?? old ?? HuggingFaceRope(base: outer ?? 10_000, scaling: .none)
    }

    init(base: Double, scaling: RotaryScaling) {
        self.base = base
        self.scaling = scaling
    }
}

extension RotaryScaling {
    /// Reads `rope_scaling` or `rope_parameters`; unknown keys are not looked at, unknown kinds are refused.
    fileprivate init(huggingFace section: inout ConfigSection, original: Int?, context: Int) throws {
        func factor(_ key: String) throws -> Double {
            if let value = try section.optionalNumber(key, .above(0)) { return value }
            throw section.refusal(key, "is missing", "a number above 0")
        }
        if let part = try section.optionalNumber("partial_rotary_factor"), part != 1 {
            throw section.refusal("partial_rotary_factor", "is \(part): part of a head stays unturned", "1")
        }
        let originalLength = try section.optionalInteger("original_max_position_embeddings", .atLeast(1)) ?? original
        let kind = try section.optionalText("rope_type") ?? section.optionalText("type") ?? "default"
        switch kind {
        case "default": self = .none
        case "linear": self = .linear(factor: try factor("factor"))
        case "dynamic":
            // There the base follows the length of each input; here one length is set, at first the one where nothing changes.
            self = .dynamicNTK(factor: try factor("factor"), length: context, originalLength: context)
        case "yarn":
            var yarn = YaRN(factor: try factor("factor"), originalLength: originalLength ?? context)
            yarn.betaFast = try section.number("beta_fast", default: yarn.betaFast, .above(0))
            yarn.betaSlow = try section.number("beta_slow", default: yarn.betaSlow, .above(0))
            yarn.attentionFactor = try section.optionalNumber("attention_factor", .above(0))
            yarn.mscale = try section.optionalNumber("mscale")
            yarn.mscaleAllDimensions = try section.optionalNumber("mscale_all_dim")
            yarn.truncate = try section.flag("truncate", default: true)
            self = .yarn(yarn)
        case "llama3":
            guard let originalLength else {
                throw section.refusal(
                    "original_max_position_embeddings", "is missing", "the length before the extension")
            }
            self = .llama3(
                Llama3(
                    factor: try factor("factor"), lowFrequencyFactor: try factor("low_freq_factor"),
                    highFrequencyFactor: try factor("high_freq_factor"), originalLength: originalLength))
        default:
            throw section.refusal(
                "rope_type", "is \"\(kind)\", which RingZoo does not compute",
                "default, linear, dynamic, yarn or llama3")
        }
    }

    /// The value of `rope_scaling`, and of `max_position_embeddings`.
    fileprivate func huggingFace(context: Int) throws -> (scaling: String, length: Int) {
        func object(_ kind: String, _ entries: [(String, String)]) -> String {
            "{" + ([("rope_type", "\"\(kind)\"")] + entries).map { "\"\($0)\": \($1)" }.joined(separator: ", ") + "}"
        }
        switch self {
        case .none: return ("null", context)
        case .linear(let factor): return (object("linear", [("factor", "\(factor)")]), context)
        case .dynamicNTK(let factor, let length, let originalLength):
            if length > originalLength {
                throw RingZooError(
                    .config,
                    "llama: ropeScaling of kind ntk at the fixed length \(length) has no form in config.json, where it follows each input",
                    tried: ["a length of \(originalLength), the original one, would work"])
            }
            // That kind takes max_position_embeddings for the original length.
            return (object("dynamic", [("factor", "\(factor)")]), originalLength)
        case .yarn(let yarn):
            var entries = [
                ("factor", "\(yarn.factor)"), ("original_max_position_embeddings", "\(yarn.originalLength)"),
                ("beta_fast", "\(yarn.betaFast)"), ("beta_slow", "\(yarn.betaSlow)"), ("truncate", "\(yarn.truncate)"),
            ]
            let optional = [
                ("attention_factor", yarn.attentionFactor), ("mscale", yarn.mscale),
                ("mscale_all_dim", yarn.mscaleAllDimensions),
            ]
            entries += optional.compactMap { key, value in value.map { (key, "\($0)") } }
            return (object("yarn", entries), context)
        case .llama3(let llama3):
            let entries = [
                ("factor", "\(llama3.factor)"), ("low_freq_factor", "\(llama3.lowFrequencyFactor)"),
                ("high_freq_factor", "\(llama3.highFrequencyFactor)"),
                ("original_max_position_embeddings", "\(llama3.originalLength)"),
            ]
            return (object("llama3", entries), context)
        }
    }
}

extension ConfigSection {
    /// Refuses a model that is no LLaMA, or one with parts that `Llama` does not have.
    fileprivate mutating func refuseUnsupported() throws {
        let type = try optionalText("model_type") ?? "llama"
        if type != "llama" { throw refusal("model_type", "is \"\(type)\"", "llama") }
        let activation = try optionalText("hidden_act") ?? "silu"
        if activation != "silu" { throw refusal("hidden_act", "is \"\(activation)\"", "silu") }
        for key in ["attention_bias", "mlp_bias"] where try flag(key, default: false) {
            throw refusal(key, "is true, but Llama's projections have no bias", "false")
        }
        if try number("attention_dropout", default: 0) != 0 {
            throw refusal("attention_dropout", "is not 0, but Llama trains without dropout", "0.0")
        }
        if let tree = tree("quantization_config"), tree.content != .null {
            throw refusal(
                "quantization_config", "is there, but quantised weights are not read", "weights in F32, BF16 or F16")
        }
    }

    /// An error about a key, with its line where it is there.
    fileprivate mutating func refusal(_ key: String, _ why: String, _ remedy: String) -> RingZooError {
        let dotted = name.isEmpty ? key : "\(name).\(key)"
        return RingZooError(
            .config, "\(tree(key)?.place ?? place): \(dotted) \(why)", tried: ["\(remedy) would work"])
    }
}
