import Synchronization

/// Asks a training run from outside (a signal, another thread) to finish its step, save and end.
public final class StopRequest: Sendable {
    private let asked = Atomic(false)

    public init() {}

    public var isMade: Bool { asked.load(ordering: .relaxed) }

    public func make() { asked.store(true, ordering: .relaxed) }
}
