import Synchronization

/// Counts the live and peak bytes of one device by kind, and enforces a budget on working memory.
public final class MemoryLedger: Sendable {
    private struct State {
        var live = [Int](repeating: 0, count: MemoryKind.allCases.count)
        var peak = [Int](repeating: 0, count: MemoryKind.allCases.count)
        var peakOfAll = 0
        var budget: Int?
        var failure: RingZooError?
        var allocations = 0
    }

    private let state = Mutex(State())

    public init() {}

    /// Bytes in use now.
    public func live(_ kind: MemoryKind = .working) -> Int { state.withLock { $0.live[kind.rawValue] } }

    /// The most bytes of this kind that were in use at once since the last `resetPeak`.
    public func peak(_ kind: MemoryKind = .working) -> Int { state.withLock { $0.peak[kind.rawValue] } }

    /// The most bytes of all kinds together that were in use at once since the last `resetPeak`: less than the sum of the kinds' peaks
    /// where those are at different times.
    public var peakOfAll: Int { state.withLock { $0.peakOfAll } }

    /// The number of allocations so far.
    public var allocations: Int { state.withLock { $0.allocations } }

    /// Bytes of `.working` memory that may be live at once; nil for no limit.
    public var budget: Int? {
        get { state.withLock { $0.budget } }
        set { state.withLock { $0.budget = newValue } }
    }

    /// Starts a new measurement of the peaks from what is live now.
    public func resetPeak() {
        state.withLock { state in
            state.peak = state.live
            state.peakOfAll = state.live.reduce(0, +)
        }
    }

    /// Counts an allocation. Beyond the budget the failure sticks until `checkFailure` reports it: operations on tensors do not
    /// throw, so the memory is still handed out and the step ends at the next place where work is asked for.
    public func add(_ byteCount: Int, _ kind: MemoryKind) {
        state.withLock { state in
            state.allocations += 1
            state.live[kind.rawValue] += byteCount
            state.peak[kind.rawValue] = max(state.peak[kind.rawValue], state.live[kind.rawValue])
            state.peakOfAll = max(state.peakOfAll, state.live.reduce(0, +))
            if kind == .working, let budget = state.budget, state.live[kind.rawValue] > budget, state.failure == nil {
                state.failure = RingZooError(
                    .failed,
                    "out of memory budget: \(state.live[kind.rawValue]) bytes of working memory wanted, the budget is \(budget) bytes",
                    tried: [
                        "raise memory.budget, shorten data.context, spread it over more ranks (parallel.sequence),"
                            + " or set memory.rematerialise: block"
                    ])
            }
        }
    }

    public func remove(_ byteCount: Int, _ kind: MemoryKind) {
        state.withLock { $0.live[kind.rawValue] -= byteCount }
    }

    public func move(_ byteCount: Int, from: MemoryKind, to: MemoryKind) {
        state.withLock { state in
            state.live[from.rawValue] -= byteCount
            state.live[to.rawValue] += byteCount
            state.peak[to.rawValue] = max(state.peak[to.rawValue], state.live[to.rawValue])
        }
    }

    /// Records a failure of the device; the first one stays.
    public func fail(_ error: RingZooError) {
        state.withLock { if $0.failure == nil { $0.failure = error } }
    }

    /// Throws the failure that sticks to the device, once.
    public func checkFailure() throws {
        let failure = state.withLock { state in
            defer { state.failure = nil }
            return state.failure
        }
        if let failure { throw failure }
    }
}
