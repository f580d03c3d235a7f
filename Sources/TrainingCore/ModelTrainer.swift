import DataCore
import DistributedCore
import NeuralCore
import TensorCore

/// A trainer, whatever the type of its model; its methods change it in place. `Trainer` is the one there is.
public protocol ModelTrainer: Sendable {
    associatedtype Model: LanguageModel
    /// What this rank has of it.
    var model: Model { get }
    var optimizer: any Optimizer { get }
    var mesh: ProcessMesh { get }
    var plan: TrainingPlan { get }
    /// Updates that have been decided so far, skipped ones included.
    var step: Int { get }
    /// Updates skipped because something was not finite.
    var skipped: Int { get }

    /// One update.
    /// - Throws: a device's or a peer's failure, and a loss or gradient that is not finite, naming the step: with `.stop` the first,
    ///   with `.skip` the one that makes `TrainingPlan.skipLimit` in a row.
    mutating func takeStep() throws -> StepReport

    /// Mean loss per target over validation batches, the same on every rank.
    func evaluate(_ batches: some Sequence<Batch>) throws -> (loss: Double, targets: Int)

    /// What has to be saved beside the tensors.
    var state: TrainingState { get }

    /// Goes on from a saved state. The weights must be there already (`loadWeights`).
    ///
    /// `saved` and `read` give the optimizer's state (`Optimizer.restore`).
    mutating func restore(
        _ state: TrainingState, saved: [String: SavedForm], read: (String) throws -> Tensor) throws

    /// Lets `body` overwrite the weights.
    mutating func loadWeights(_ body: (inout Model) throws -> Void) rethrows
}
