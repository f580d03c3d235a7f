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
        width: Int, layers: Int, heads: Int, keyHeads: Int? = nil, headSize: Int? = nil, feedForward: Int, vocabulary: Int,
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
        for (name, value) in [
            ("width", width), ("layers", layers), ("heads", heads), ("keyHeads", keyHeads), ("headSize", headSize),
            ("feedForward", feedForward), ("vocabulary", vocabulary), ("context", context),
        ] where value < 1 {
            throw refuse("\(name) is \(value)", "at least 1 would work")
        }
        if heads % keyHeads != 0 {
            throw refuse("\(heads) heads are not a multiple of \(keyHeads) keyHeads", "keyHeads that divide heads")
        }
        if headSize % 2 != 0 { throw refuse("headSize \(headSize) is odd", "an even head size: rotary turns pairs") }
    }

    /// The number of trained values, without making the model.
    public var parameterCount: Int {
        let attention = 2 * width * heads * headSize + 2 * width * keyHeads * headSize
        let block = attention + 3 * width * feedForward + 2 * width
        return (tied ? 1 : 2) * vocabulary * width + layers * block + width
    }
}

// MARK: Presets

extension LlamaConfiguration {
    /// Sizes by name; the model card says where they are published.
    public static let presets: [(name: String, configuration: LlamaConfiguration)] = [
        ("debug", .init(width: 64, layers: 2, heads: 4, keyHeads: 2, feedForward: 192, vocabulary: 256, context: 256)),
        ("byte-25m", .init(width: 512, layers: 8, heads: 8, feedForward: 1376, vocabulary: 256, context: 4096)),
        ("tiny-24m", .init(width: 288, layers: 6, heads: 6, feedForward: 768, vocabulary: 32_000, context: 256)),
        (
            "110m",
            .init(width: 768, layers: 12, heads: 12, feedForward: 2048, vocabulary: 32_000, tied: true, context: 1024)
        ),
        (
            "1b",
            .init(
                width: 2048, layers: 16, heads: 32, keyHeads: 8, feedForward: 8192, vocabulary: 128_256, tied: true,
                ropeBase: 500_000, ropeScaling: .llama3(.init(factor: 32)), context: 131_072)
        ),
        (
            "3b",
            .init(
                width: 3072, layers: 28, heads: 24, keyHeads: 8, feedForward: 8192, vocabulary: 128_256, tied: true,
                ropeBase: 500_000, ropeScaling: .llama3(.init(factor: 32)), context: 131_072)
        ),
        ("7b", .init(width: 4096, layers: 32, heads: 32, feedForward: 11_008, vocabulary: 32_000, normEpsilon: 1e-6)),
        ("13b", .init(width: 5120, layers: 40, heads: 40, feedForward: 13_824, vocabulary: 32_000, normEpsilon: 1e-6)),
        ("30b", .init(width: 6656, layers: 60, heads: 52, feedForward: 17_920, vocabulary: 32_000, normEpsilon: 1e-6)),
        ("65b", .init(width: 8192, layers: 80, heads: 64, feedForward: 22_016, vocabulary: 32_000)),
        (
            "llama2-70b",
            .init(
                width: 8192, layers: 80, heads: 64, keyHeads: 8, feedForward: 28_672, vocabulary: 32_000, context: 4096)
        ),
        (
            "llama3-8b",
            .init(
                width: 4096, layers: 32, heads: 32, keyHeads: 8, feedForward: 14_336, vocabulary: 128_256,
                ropeBase: 500_000, context: 8192)
        ),
    ]
}
