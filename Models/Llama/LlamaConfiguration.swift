import NeuralCore
import TensorCore

/// The sizes of a LLaMA-family model.
public struct LlamaConfiguration: Sendable, Hashable {
    /// M.
    public var width: Int
    public var layers: Int
    /// H, query heads.
    public var heads: Int
    /// Hkv, key/value heads; a divisor of `heads`.
    public var keyHeads: Int
    /// D; width / heads unless a model says otherwise.
    public var headSize: Int
    /// F, the hidden size of the feed-forward layers.
    public var feedForward: Int
    /// V.
    public var vocabulary: Int
    /// The head uses the embedding's weight.
    public var tied: Bool
    public var normEpsilon: Double
    /// Theta.
    public var ropeBase: Double
    public var ropeScaling: RotaryScaling
    /// The context the model was made for; what training uses unless the data says otherwise. Not a limit.
    public var context: Int

    public init(
        width: Int, layers: Int, heads: Int, keyHeads: Int? = nil, headSize: Int? = nil, feedForward: Int,
        vocabulary: Int,
        tied: Bool = false, normEpsilon: Double = 1e-5, ropeBase: Double = 10_000, ropeScaling: RotaryScaling = .none,
        context: Int = 2048
    ) {
        self.width = width
        self.layers = layers
        self.heads = heads
        self.keyHeads = keyHeads ?? heads
        self.headSize = headSize ?? (heads > 0 ? width / heads : 0)
        self.feedForward = feedForward
        self.vocabulary = vocabulary
        self.tied = tied
        self.normEpsilon = normEpsilon
        self.ropeBase = ropeBase
        self.ropeScaling = ropeScaling
        self.context = context
    }

    /// Throws `.config` for sizes that cannot be a model, naming them.
    public func check() throws {
        func refuse(_ message: String, _ remedy: String) -> RingZooError {
            RingZooError(.config, "llama: \(message)", tried: [remedy])
        }
        // The limits are far above any model, and keep every product of sizes inside 64 bits; token ids are int32.
        for (name, value, limit) in [
            ("width", width, 1 << 20), ("layers", layers, 1 << 14), ("heads", heads, 1 << 20),
            ("keyHeads", keyHeads, 1 << 20), ("headSize", headSize, 1 << 20), ("feedForward", feedForward, 1 << 20),
            ("vocabulary", vocabulary, 1 << 31), ("context", context, 1 << 40),
        ] where value < 1 || value > limit {
            throw refuse("\(name) is \(value)", "1 to \(limit) would work")
        }
        if heads * headSize > 1 << 20 {
            throw refuse("\(heads) heads of size \(headSize) are too wide", "heads times headSize up to \(1 << 20)")
        }
        if heads % keyHeads != 0 {
            throw refuse("\(heads) heads are not a multiple of \(keyHeads) keyHeads", "keyHeads that divide heads")
        }
        if !(normEpsilon.isFinite && normEpsilon > 0) {
            throw refuse("normEpsilon is \(normEpsilon)", "a small number above 0, usually 1e-5")
        }
        // Rotary turns pairs, and knows what its own numbers may be.
        _ = try RotaryEmbedding(headSize: headSize, base: ropeBase, scaling: ropeScaling)
    }
}

// MARK: Parameters, without making the model

extension LlamaConfiguration {
    /// Name and shape of every parameter, in the order of `Llama.visit`.
    public var parameterShapes: [(name: String, shape: [Int])] {
        var shapes = [("embedding.weight", [vocabulary, width])]
        for layer in 0..<layers {
            shapes += [
                ("attention_norm.weight", [width]),
                ("attention.q_proj.weight", [heads * headSize, width]),
                ("attention.k_proj.weight", [keyHeads * headSize, width]),
                ("attention.v_proj.weight", [keyHeads * headSize, width]),
                ("attention.o_proj.weight", [width, heads * headSize]),
                ("feed_forward_norm.weight", [width]),
                ("feed_forward.gate_proj.weight", [feedForward, width]),
                ("feed_forward.up_proj.weight", [feedForward, width]),
                ("feed_forward.down_proj.weight", [width, feedForward]),
            ].map { ("layers.\(layer).\($0)", $1) }
        }
        shapes.append(("norm.weight", [width]))
        return tied ? shapes : shapes + [("head.weight", [vocabulary, width])]
    }

    /// The number of trained values.
    public var parameterCount: Int { parameterShapes.reduce(0) { $0 + $1.shape.reduce(1, *) } }
}
