/// How many tokens are computed at a time where a whole sequence at once would take too much memory.
public enum ChunkSize: Sendable, Hashable {
    /// As many as keep the widest intermediate value within 64 MiB, at least 64: smaller products read the weights too often.
    case auto
    /// All of them: no chunking.
    case whole
    /// This many, at least 1. Fewer are taken where chunks would be uneven.
    case tokens(Int)

    private static let automaticBytes = 64 << 20
    private static let automaticMinimum = 64

    /// Rows of one chunk, at least 1, when one row of the widest intermediate value takes `bytesPerRow` bytes. Chunks are
    /// evened out, so that the last one is not a small rest. Fewer than one token a chunk traps.
    public func rows(of count: Int, bytesPerRow: Int) -> Int {
        let wanted: Int
        switch self {
        case .auto: wanted = max(Self.automaticMinimum, Self.automaticBytes / max(1, bytesPerRow))
        case .whole: wanted = count
        case .tokens(let tokens):
            if tokens < 1 { fatalError("ChunkSize: at least one token a chunk wanted, got \(tokens)") }
            wanted = tokens
        }
        if wanted >= count { return max(1, count) }
        let chunks = (count + wanted - 1) / wanted
        return (count + chunks - 1) / chunks
    }
}
