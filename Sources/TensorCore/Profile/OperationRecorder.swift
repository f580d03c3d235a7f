import CTensorKernels
import Synchronization

/// Collects what one device does, operation by operation, while it is set as the device's `recorder`.
///
/// Spans nest: an operation that calls others (a norm's backward pass that sums its groups) holds their spans inside its own,
/// and `ownSeconds` is what it spent itself. One device runs one operation at a time, so spans never overlap otherwise.
public final class OperationRecorder: Sendable {
    /// One operation that has ended.
    public struct Span: Sendable {
        public let name: String
        /// On the monotonic clock (`rz_monotonic_seconds`).
        public let start, end: Double
        /// Without the operations inside.
        public let ownSeconds: Double
        /// Additions and multiplications; 0 where memory is what an operation is about.
        public let flops: Double
        /// Bytes of the operands and the result, each counted once.
        public let bytes: Double
        /// How many spans are around this one.
        public let depth: Int
    }

    /// An operation that runs; `close` ends it.
    public struct OpenSpan {
        fileprivate let recorder: OperationRecorder
        fileprivate let name: String
        fileprivate let flops, bytes: Double

        public func close() { recorder.close(self) }
    }

    private struct State {
        var spans: [Span] = []
        /// Of each open span: when it began, and the seconds spent in spans inside it.
        var open: [(start: Double, inner: Double)] = []
    }
    private let state = Mutex(State())

    public init() {}

    /// Begins an operation; spans must be closed in the reverse order.
    public func open(_ name: String, flops: Double = 0, bytes: Double = 0) -> OpenSpan {
        state.withLock { $0.open.append((rz_monotonic_seconds(), 0)) }
        return OpenSpan(recorder: self, name: name, flops: flops, bytes: bytes)
    }

    /// Begins an operation that reads or writes every element of `tensors` once; broadcast elements are one element.
    public func open(_ name: String, flops: Double = 0, moving tensors: [Tensor]) -> OpenSpan {
        let bytes = tensors.reduce(0) { sum, tensor in
            let elements = zip(tensor.shape, tensor.strides).reduce(1) { $1.1 == 0 ? $0 : $0 * $1.0 }
            return sum + elements * tensor.dtype.byteCount
        }
        return open(name, flops: flops, bytes: Double(bytes))
    }

    private func close(_ span: OpenSpan) {
        let end = rz_monotonic_seconds()
        state.withLock { state in
            guard let (start, inner) = state.open.popLast() else { fatalError("OperationRecorder: nothing is open") }
            if !state.open.isEmpty { state.open[state.open.count - 1].inner += end - start }
            state.spans.append(
                Span(
                    name: span.name, start: start, end: end, ownSeconds: end - start - inner, flops: span.flops,
                    bytes: span.bytes, depth: state.open.count))
        }
    }

    /// Hands out the spans that have ended, in the order of their ends, and forgets them.
    public func take() -> [Span] {
        state.withLock { state in
            defer { state.spans = [] }
            return state.spans
        }
    }
}

/// Where a device keeps its recorder. Without one, asking costs one load of a flag.
final class RecorderSlot: Sendable {
    private let isSet = Atomic(false)
    private let recorder = Mutex<OperationRecorder?>(nil)

    var current: OperationRecorder? {
        get { isSet.load(ordering: .relaxed) ? recorder.withLock { $0 } : nil }
        set {
            recorder.withLock { $0 = newValue }
            isSet.store(newValue != nil, ordering: .relaxed)
        }
    }
}
