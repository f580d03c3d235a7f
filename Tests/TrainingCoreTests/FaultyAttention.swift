import AttentionCore
import Synchronization
import TensorCore

/// A backend that does something else at some of its calls, forward and backward counted together from 1.
struct FaultyAttention: AttentionBackend {
    enum Fault: Sendable {
        /// Throws an `InjectedFault`.
        case `throws`
        /// The result is not a number.
        case notANumber
    }

    let inner: any AttentionBackend
    let faulty: ClosedRange<Int>
    let fault: Fault
    private let calls = Counter()

    var name: String { inner.name }

    init(_ inner: any AttentionBackend, call: Int, _ fault: Fault) { self.init(inner, calls: call...call, fault) }

    init(_ inner: any AttentionBackend, calls: ClosedRange<Int>, _ fault: Fault) {
        self.inner = inner
        faulty = calls
        self.fault = fault
    }

    func unsupportedReasons(_ problem: AttentionProblem) -> [String] { inner.unsupportedReasons(problem) }

    func forward(
        q: Tensor, k: Tensor, v: Tensor, into state: inout AttentionState, _ problem: AttentionProblem
    ) throws {
        let now = calls.next()
        if faulty.contains(now), case .throws = fault { throw InjectedFault(call: now) }
        try inner.forward(q: faulty.contains(now) ? q * Double.nan : q, k: k, v: v, into: &state, problem)
    }

    func backward(
        dOut: Tensor, q: Tensor, k: Tensor, v: Tensor, lse: Tensor, delta: Tensor,
        into gradients: inout AttentionGradients, _ problem: AttentionProblem
    ) throws {
        let now = calls.next()
        if faulty.contains(now), case .throws = fault { throw InjectedFault(call: now) }
        try inner.backward(
            dOut: faulty.contains(now) ? dOut * Double.nan : dOut, q: q, k: k, v: v, lse: lse, delta: delta,
            into: &gradients,
            problem)
    }
}

struct InjectedFault: Error, Equatable {
    var call: Int
}

/// Counts from 1.
private final class Counter: Sendable {
    private let count = Atomic(0)
    func next() -> Int { count.add(1, ordering: .relaxed).newValue }
}
