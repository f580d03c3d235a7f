import DistributedCore
import NeuralCore

/// How long a run goes, and what happens on the way; the same on every rank.
public struct TrainingPlan: Sendable {
    /// What a loss or gradient that is not finite leads to.
    public enum OnNonFinite: Sendable {
        /// The run ends with an error that names the step; the last good checkpoint stays.
        case stop
        /// The step changes nothing, and is counted; the run ends with an error after `skipLimit` such steps in a row.
        case skip
    }

    /// Skipped steps in a row after which a run ends: weights and data that give nothing finite so often do not get better.
    public static let skipLimit = 10

    /// Steps of the whole schedule.
    public var steps: Int
    /// A step after which the run ends early, without changing the schedule.
    public var stopAfter: Int?
    /// Micro-batches whose gradients are added up before an update.
    public var accumulate = 1
    public var schedule: Schedule
    /// The largest global norm of the gradient; nil never clips.
    public var clip: Double?
    /// Steps between evaluations; nil for none.
    public var evaluateEvery: Int?
    /// Validation batches an evaluation reads at most.
    public var evaluationBatches = 50
    /// Steps between checkpoints; nil for one at the end alone.
    public var checkpointEvery: Int?
    public var onNonFinite = OnNonFinite.stop
    /// How the sequence is cut over the ranks.
    public var layout = SequenceLayout.zigzag
    /// The ranks' parts of it in relation to each other; nil for equal parts.
    public var shares: [Int]?
    public var precision = Precision.float32
    public var memory = SequenceContext.MemoryPlan()

    public init(steps: Int, schedule: Schedule) {
        self.steps = steps
        self.schedule = schedule
    }

    /// The step after which the run ends.
    public var lastStep: Int { min(steps, stopAfter ?? steps) }
}
