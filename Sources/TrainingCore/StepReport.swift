/// What one step did.
public struct StepReport: Sendable, Codable, Hashable {
    /// Counted from 1.
    public var step: Int
    /// Mean loss per target before the update, natural logarithm.
    public var loss: Double
    /// Global norm of the mean gradient, before clipping.
    public var gradientNorm: Double
    public var rate: Double
    /// Targets the loss is the mean of.
    public var targets: Int
    /// Tokens read, over all ranks.
    public var tokens: Int
    /// True where something was not finite and nothing was changed.
    public var skipped: Bool
}
