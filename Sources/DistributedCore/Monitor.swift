import CTensorKernels

/// The clock of all deadlines; setting the wall clock does not move it.
public enum MonotonicClock {
    /// Seconds since some fixed moment.
    public static var seconds: Double { rz_monotonic_seconds() }
}

/// A value behind a lock, with waiting until it satisfies a condition or a deadline passes.
///
/// `@unchecked Sendable`: the value is touched only while the lock, a C handle, is held.
public final class Monitor<Value>: @unchecked Sendable {
    private let handle: OpaquePointer
    private var value: Value

    public init(_ value: Value) {
        guard let handle = rz_monitor_create() else { fatalError("Monitor: the system has no memory for a lock") }
        self.handle = handle
        self.value = value
    }

    deinit { rz_monitor_destroy(handle) }

    /// Changes the value and wakes everyone who waits for it.
    public func update<R>(_ body: (inout Value) throws -> R) rethrows -> R {
        rz_monitor_lock(handle)
        defer {
            rz_monitor_broadcast(handle)
            rz_monitor_unlock(handle)
        }
        return try body(&value)
    }

    /// Waits until `body` returns something; nil when the deadline (`MonotonicClock` seconds, or infinity) passed first.
    public func wait<R>(until deadline: Double, _ body: (inout Value) throws -> R?) rethrows -> R? {
        rz_monitor_lock(handle)
        defer { rz_monitor_unlock(handle) }
        while true {
            if let result = try body(&value) { return result }
            if rz_monitor_wait(handle, deadline) == 0 { return try body(&value) }
        }
    }
}
