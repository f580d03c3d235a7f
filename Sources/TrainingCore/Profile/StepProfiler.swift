import BlockwiseAttention
import Synchronization
import TensorCore

/// Records some steps of a run on every rank; the ranks of one process share it.
///
/// Recorded are the three steps after the first, which allocates what later ones reuse; of a run with one step, that one.
public final class StepProfiler: Sendable {
    private struct RankState {
        var stepsSeen = 0
        var spans: [OperationRecorder.Span] = []
    }
    private let ranks: Mutex<[RankState]>

    public init(ranks count: Int) { ranks = Mutex([RankState](repeating: RankState(), count: count)) }

    /// Runs one step, with the device's recorder set if it is one of those to be recorded.
    /// - Parameter remaining: steps that the run has yet to do, this one included.
    public func around<R>(
        rank: Int, _ device: any Device, remaining: Int, _ body: () throws -> R
    ) rethrows -> R {
        let index = ranks.withLock { ranks in
            ranks[rank].stepsSeen += 1
            return ranks[rank].stepsSeen - 1
        }
        if !(1...3).contains(index) && !(index == 0 && remaining == 1) { return try body() }
        let recorder = OperationRecorder()
        device.recorder = recorder
        defer {
            device.recorder = nil
            ranks.withLock { $0[rank].spans += recorder.take() }
        }
        let span = recorder.open(StepProfile.stepName)
        defer { span.close() }
        return try body()
    }

    /// What the ranks of this process recorded.
    /// - Parameter threadsPerRank: for the machine's ceilings, which are measured with the threads of all of them.
    public func profile(threadsPerRank: Int) -> StepProfile {
        let spans = ranks.withLock { $0.map(\.spans) }.filter { !$0.isEmpty }
        return StepProfile(
            ranks: spans, ceilings: MachineCeilings(on: ThreadPool(workers: threadsPerRank * max(1, spans.count))))
    }
}
