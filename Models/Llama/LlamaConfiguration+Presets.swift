extension LlamaConfiguration {
    /// Sizes by name, smallest first; the model card says where they are published.
    public static let presets: [(name: String, configuration: LlamaConfiguration)] = [
        ("debug", .init(width: 64, layers: 2, heads: 4, keyHeads: 2, feedForward: 192, vocabulary: 256, context: 256)),
        ("tiny-24m", .init(width: 288, layers: 6, heads: 6, feedForward: 768, vocabulary: 32_000, context: 256)),
        ("byte-25m", .init(width: 512, layers: 8, heads: 8, feedForward: 1376, vocabulary: 256, context: 4096)),
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
        (
            "llama3-8b",
            .init(
                width: 4096, layers: 32, heads: 32, keyHeads: 8, feedForward: 14_336, vocabulary: 128_256,
                ropeBase: 500_000, context: 8192)
        ),
        ("13b", .init(width: 5120, layers: 40, heads: 40, feedForward: 13_824, vocabulary: 32_000, normEpsilon: 1e-6)),
        ("30b", .init(width: 6656, layers: 60, heads: 52, feedForward: 17_920, vocabulary: 32_000, normEpsilon: 1e-6)),
        ("65b", .init(width: 8192, layers: 80, heads: 64, feedForward: 22_016, vocabulary: 32_000)),
        (
            "llama2-70b",
            .init(
                width: 8192, layers: 80, heads: 64, keyHeads: 8, feedForward: 28_672, vocabulary: 32_000, context: 4096)
        ),
    ]
}
