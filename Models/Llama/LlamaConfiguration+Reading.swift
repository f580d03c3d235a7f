import NeuralCore
import TensorCore
import ZooCore

extension LlamaConfiguration {
    /// Reads the size fields of a config's model section over those of a preset. The caller calls `finish()`.
    ///
    /// What follows from other sizes follows them unless it is given: `headSize` is width / heads where one of the two is given, and
    /// `keyHeads` is `heads` where the preset has as many of both (or there is none).
    /// - Throws: `.config` with the place of the field at fault.
    public init(_ section: inout ConfigSection, over preset: LlamaConfiguration? = nil) throws {
        // `integer` without a default throws for a key that is not there, as it should without a preset.
        func size(_ key: String, _ standard: Int?) throws -> Int {
            guard let standard else { return try section.integer(key, .atLeast(1)) }
            return try section.integer(key, default: standard, .atLeast(1))
        }
        let width = try size("width", preset?.width)
        let heads = try size("heads", preset?.heads)
        let layers = try size("layers", preset?.layers)
        let feedForward = try size("feedForward", preset?.feedForward)
        let vocabulary = try size("vocabulary", preset?.vocabulary)
        let grouped = preset.flatMap { $0.keyHeads == $0.heads ? nil : $0.keyHeads }
        let keyHeads = try size("keyHeads", grouped ?? heads)
        let headSize: Int
        if let given = try section.optionalInteger("headSize", .atLeast(1)) {
            headSize = given
        } else if let preset, preset.width == width, preset.heads == heads {
            headSize = preset.headSize
        } else if width % heads == 0 {
            headSize = width / heads
        } else {
            throw RingZooError(
                .config, "\(section.place): \(section.name).width \(width) is not a multiple of heads \(heads)",
                tried: ["a width that is, or headSize"])
        }
        self.init(
            width: width, layers: layers, heads: heads, keyHeads: keyHeads, headSize: headSize,
            feedForward: feedForward, vocabulary: vocabulary,
            tied: try section.flag("tied", default: preset?.tied ?? false),
            normEpsilon: try section.number("normEpsilon", default: preset?.normEpsilon ?? 1e-5, .above(0)),
            ropeBase: try section.number("ropeBase", default: preset?.ropeBase ?? 10_000, .above(1)),
            ropeScaling: try RotaryScaling(&section, over: preset?.ropeScaling ?? .none),
            context: try section.integer("context", default: preset?.context ?? 2048, .atLeast(1)))
        do {
            try check()
        } catch var error as RingZooError {
            error.message = "\(section.place): \(error.message)"
            throw error
        }
    }

    /// Every field, as a config's model section has them; reading it without a preset gives an equal value.
    public var fields: ConfigTree {
        .mapping([
            ("width", .integer(width)), ("layers", .integer(layers)), ("heads", .integer(heads)),
            ("keyHeads", .integer(keyHeads)), ("headSize", .integer(headSize)), ("feedForward", .integer(feedForward)),
            ("vocabulary", .integer(vocabulary)), ("tied", .flag(tied)), ("normEpsilon", .number(normEpsilon)),
            ("ropeBase", .number(ropeBase)), ("ropeScaling", ropeScaling.fields), ("context", .integer(context)),
        ])
    }
}

extension RotaryScaling {
    private enum Kind: String, CaseIterable {
        case none, linear, ntk, yarn, llama3
    }

    private var kind: Kind {
        switch self {
        case .none: .none
        case .linear: .linear
        case .dynamicNTK: .ntk
        case .yarn: .yarn
        case .llama3: .llama3
        }
    }

    /// Reads `ropeScaling` over a preset's: keys that are not given keep the preset's values where the kind is the same.
    init(_ owner: inout ConfigSection, over preset: RotaryScaling) throws {
        var section = try owner.section("ropeScaling")
        func number(_ key: String, _ standard: Double?) throws -> Double {
            if let value = try section.optionalNumber(key, .above(0)) ?? standard { return value }
            throw RingZooError(.config, "\(section.place): \(section.name).\(key) is missing and has no default")
        }
        func length(_ key: String, _ standard: Int?) throws -> Int {
            guard let standard else { return try section.integer(key, .atLeast(1)) }
            return try section.integer(key, default: standard, .atLeast(1))
        }
        switch try section.choice("kind", default: preset.kind) {
        case .none: self = .none
        case .linear:
            let base: Double? = if case .linear(let factor) = preset { factor } else { nil }
            self = .linear(factor: try number("factor", base))
        case .ntk:
            var base: (factor: Double, length: Int, originalLength: Int)?
            if case .dynamicNTK(let factor, let length, let original) = preset { base = (factor, length, original) }
            self = .dynamicNTK(
                factor: try number("factor", base?.factor), length: try length("length", base?.length),
                originalLength: try length("originalLength", base?.originalLength))
        case .yarn:
            let base: YaRN? = if case .yarn(let yarn) = preset { yarn } else { nil }
            var yarn = YaRN(
                factor: try number("factor", base?.factor),
                originalLength: try length("originalLength", base?.originalLength))
            yarn.betaFast = try number("betaFast", base?.betaFast ?? yarn.betaFast)
            yarn.betaSlow = try number("betaSlow", base?.betaSlow ?? yarn.betaSlow)
            yarn.attentionFactor = try section.optionalNumber("attentionFactor", .above(0)) ?? base?.attentionFactor
            yarn.mscale = try section.optionalNumber("mscale") ?? base?.mscale
            yarn.mscaleAllDimensions =
                try section.optionalNumber("mscaleAllDimensions") ?? base?.mscaleAllDimensions
            yarn.truncate = try section.flag("truncate", default: base?.truncate ?? yarn.truncate)
            self = .yarn(yarn)
        case .llama3:
            let base: Llama3 = if case .llama3(let llama3) = preset { llama3 } else { Llama3() }
            self = .llama3(
                Llama3(
                    factor: try number("factor", base.factor),
                    lowFrequencyFactor: try number("lowFrequencyFactor", base.lowFrequencyFactor),
                    highFrequencyFactor: try number("highFrequencyFactor", base.highFrequencyFactor),
                    originalLength: try length("originalLength", base.originalLength)))
        }
        try section.finish()
    }

    var fields: ConfigTree {
        var entries: [(String, ConfigTree)] = [("kind", .word(kind.rawValue))]
        switch self {
        case .none: break
        case .linear(let factor): entries.append(("factor", .number(factor)))
        case .dynamicNTK(let factor, let length, let originalLength):
            entries += [
                ("factor", .number(factor)), ("length", .integer(length)), ("originalLength", .integer(originalLength)),
            ]
        case .yarn(let yarn):
            entries += [
                ("factor", .number(yarn.factor)), ("originalLength", .integer(yarn.originalLength)),
                ("betaFast", .number(yarn.betaFast)), ("betaSlow", .number(yarn.betaSlow)),
                ("truncate", .flag(yarn.truncate)),
            ]
            let optional = [
                ("attentionFactor", yarn.attentionFactor), ("mscale", yarn.mscale),
                ("mscaleAllDimensions", yarn.mscaleAllDimensions),
            ]
            entries += optional.compactMap { key, value in value.map { (key, .number($0)) } }
        case .llama3(let llama3):
            entries += [
                ("factor", .number(llama3.factor)), ("lowFrequencyFactor", .number(llama3.lowFrequencyFactor)),
                ("highFrequencyFactor", .number(llama3.highFrequencyFactor)),
                ("originalLength", .integer(llama3.originalLength)),
            ]
        }
        return .mapping(entries)
    }
}
