import NeuralCore

/// What a plan is made for: everything but how large, on what, and on how many.
public struct PlannedTraining: Sendable {
    public let blueprint: any ModelBlueprint
    public let attention: AttentionChoice
    /// Makes the optimizer of a model; its state takes memory.
    let optimizer: @Sendable (any LanguageModel) throws -> any Optimizer

    /// Training with AdamW.
    public init(_ blueprint: any ModelBlueprint, _ attention: AttentionChoice) {
        (self.blueprint, self.attention) = (blueprint, attention)
        optimizer = { AdamW(for: $0) }
    }

    public init(_ run: TrainingRun) {
        (blueprint, attention) = (run.blueprint, run.attention)
        optimizer = { try run.optimizer(for: $0) }
    }
}
