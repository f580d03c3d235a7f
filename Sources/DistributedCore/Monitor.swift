import Foundation

/// A value behind a lock, with waiting until it satisfies a condition or a deadline passes.
///
/// `@unchecked Sendable`: the value is touched only between lock and unlock of the condition variable, a system handle.
final class Monitor<Value>: @unchecked Sendable {
    private let condition = NSCondition()
    private var value: Value

    init(_ value: Value) { self.value = value }

    /// Changes the value and wakes everyone who waits for it.
    func update<R>(_ body: (inout Value) throws -> R) rethrows -> R {
        condition.lock()
        defer {
            condition.broadcast()
            condition.unlock()
        }
        return try body(&value)
    }

    /// Waits until `body` returns something; nil when the deadline passed first.
    func wait<R>(until deadline: Date, _ body: (inout Value) throws -> R?) rethrows -> R? {
        condition.lock()
        defer { condition.unlock() }
        while true {
            if let result = try body(&value) { return result }
            if !condition.wait(until: deadline) { return try body(&value) }
        }
    }
}
