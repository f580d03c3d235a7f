import DataCore

/// Everything besides tensors that decides how a run goes on. Random numbers derive from seed and step, so these are the random
/// state too.
public struct TrainingState: Sendable, Codable, Hashable {
    public var step: Int
    public var skipped: Int
    public var optimizerStep: Int
    public var position: DataLoader.Position
}
