import TrainingCore

/// What happens in a run, in order; seen by rank 0 alone.
public enum TrainingEvent: Sendable {
    /// Before the first step: what was decided, one line each.
    case started(notes: [String])
    /// The run goes on from a checkpoint; `inexact` says why it may not be exact to the bit, where it may not.
    case resumed(step: Int, path: String, inexact: String?)
    case stepped(StepMeasure)
    /// Mean loss per target on the validation part.
    case evaluated(step: Int, loss: Double, targets: Int)
    case saved(step: Int, path: String)
    /// Where the time of some steps went, for a run that was asked to say so.
    case profiled(StepProfile, tracePath: String)
    case finished(TrainingSummary)
}

/// A step with what it cost.
public struct StepMeasure: Sendable, Codable {
    public var report: StepReport
    /// Wall time of the step.
    public var seconds: Double
    public var tokensPerSecond: Double
    /// Peak bytes of activations and ring buffers of each rank so far.
    public var peakBytes: [Int]
    /// Bytes of weights, gradients and optimizer state of each rank.
    public var stateBytes: [Int]
    /// The last step of this run.
    public var lastStep: Int
}

/// How a run ended.
public struct TrainingSummary: Sendable, Codable {
    public var step: Int
    /// False where it was asked to stop, or `stopAfter` came first.
    public var complete: Bool
    /// True where a signal or another thread asked it to stop.
    public var interrupted: Bool
    public var lastLoss: Double?
    public var validationLoss: Double?
    public var checkpoint: String
    public var seconds: Double
}
