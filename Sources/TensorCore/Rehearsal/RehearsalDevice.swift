import Synchronization

/// A device that keeps books instead of computing.
///
/// A model, a trainer or an attention backend runs on it unchanged: memory is counted by the ledger as on a real device, each
/// operation adds its time to a clock, and nothing has a value (all that is read is zero). So what a step of any model will take is
/// found by running that step, in the time its Swift code takes, however large the model: no formula has to follow the code.
public final class RehearsalDevice: Device {
    /// What the seconds of a rehearsal were spent on.
    public enum Part: String, Sendable, CaseIterable, Codable {
        case products, attention, elements, optimizer
        /// Waiting for what other ranks send; transfer that computation hides is not in it.
        case communication
    }

    /// Seconds, and floating-point operations of products and attention.
    public struct Spending: Sendable, Hashable {
        public var seconds = 0.0
        public var flops = 0.0
    }

    public let name = "rehearsal"
    public let ledger = MemoryLedger()
    public let hasHostMemory = false
    public let speed: DeviceSpeed
    /// Worker threads of the device that is stood in for; kernels ask for memory per thread.
    public let workers: Int
    private let books = Mutex((clock: 0.0, parts: [Part: Spending]()))

    public init(speed: DeviceSpeed, workers: Int) {
        self.speed = speed
        self.workers = workers
    }

    /// Seconds since the start of the rehearsal, or the last `startClock`.
    public var clock: Double { books.withLock { $0.clock } }

    public var spending: [Part: Spending] { books.withLock { $0.parts } }

    /// Sets the clock and all spending to zero.
    public func startClock() { books.withLock { $0 = (0, [:]) } }

    /// Lets the time of one operation pass: that of its FLOPs at `rate` or of its bytes, whichever is longer.
    public func spend(_ part: Part, flops: Double = 0, rate: Double? = nil, bytes: Double = 0) {
        let computing = rate.map { flops / $0 } ?? 0
        let seconds = speed.launch + max(computing, bytes / speed.memory)
        add(part, seconds, flops)
    }

    /// Waits until the clock shows `time`.
    public func wait(until time: Double) {
        add(.communication, max(0, time - clock), 0)
    }

    private func add(_ part: Part, _ seconds: Double, _ flops: Double) {
        books.withLock { books in
            books.clock += seconds
            books.parts[part, default: Spending()].seconds += seconds
            books.parts[part, default: Spending()].flops += flops
        }
    }

    /// An operation that reads or writes every element of these tensors once; broadcast elements are one element.
    private func pass(over tensors: Tensor..., part: Part = .elements) {
        let bytes = tensors.reduce(0) { sum, x in
            sum + zip(x.shape, x.strides).reduce(x.dtype.byteCount) { $1.1 == 0 ? $0 : $0 * $1.0 }
        }
        spend(part, bytes: Double(bytes))
    }

    // MARK: Memory

    public func allocate(byteCount: Int, kind: MemoryKind) -> Storage {
        ledger.add(byteCount, kind)
        // An address that nobody follows.
        return Storage(
            device: self, address: UnsafeMutableRawPointer(bitPattern: 64)!, byteCount: byteCount, kind: kind)
    }

    public func release(address: UnsafeMutableRawPointer, byteCount: Int, kind: MemoryKind) {
        ledger.remove(byteCount, kind)
    }

    public func write(_ bytes: UnsafeRawBufferPointer, into out: Tensor) { pass(over: out) }

    public func read(_ x: Tensor, into bytes: UnsafeMutableRawBufferPointer) {
        bytes.initializeMemory(as: UInt8.self, repeating: 0)
    }
}

// MARK: The primitives

extension RehearsalDevice {
    public func fill(_ out: Tensor, with value: Double) { pass(over: out) }
    public func copy(_ x: Tensor, into out: Tensor) { pass(over: x, out) }
    public func unary(_ operation: UnaryOperation, _ x: Tensor, into out: Tensor) { pass(over: x, out) }
    public func binary(_ operation: BinaryOperation, _ a: Tensor, _ b: Tensor, into out: Tensor) {
        pass(over: a, b, out)
    }
    public func compare(_ operation: Comparison, _ a: Tensor, _ b: Tensor, into out: Tensor) { pass(over: a, b, out) }
    public func select(_ condition: Tensor, _ a: Tensor, _ b: Tensor, into out: Tensor) {
        pass(over: condition, a, b, out)
    }
    public func reduce(_ operation: Reduction, _ x: Tensor, axes: [Int], into out: Tensor) { pass(over: x, out) }
    public func argmax(_ x: Tensor, into out: Tensor) { pass(over: x) }

    public func matmul(_ a: Tensor, _ b: Tensor, into out: Tensor, accumulate: Bool) {
        let flops = 2 * Double(out.elementCount) * Double(a.shape[a.rank - 1])
        let bytes = Double(a.byteCount + b.byteCount + out.byteCount)
        // The CPU computes half precision in float32 copies.
        let wide =
            out.dtype == .float32 || out.dtype == .float64
            ? []
            : [a, b, out].map { x in
                pass(over: x)
                return Tensor(uninitialised: x.shape, .float32, on: self)
            }
        withExtendedLifetime(wide) { spend(.products, flops: flops, rate: speed.products, bytes: bytes) }
    }

    public func gather(_ table: Tensor, _ indices: Tensor, into out: Tensor) { pass(over: out, out) }
    public func scatterAdd(_ rows: Tensor, _ indices: Tensor, into out: Tensor) { pass(over: rows, rows, rows) }
    public func swiGLU(_ gate: Tensor, _ up: Tensor, into out: Tensor) { pass(over: gate, up, out) }
    public func swiGLUPullback(_ gate: Tensor, _ up: Tensor, _ g: Tensor, dGate: Tensor, dUp: Tensor) {
        pass(over: gate, up, g, dGate, dUp)
    }
    public func softmax(_ x: Tensor, into out: Tensor) { pass(over: x, out) }
    public func softmaxPullback(_ p: Tensor, _ g: Tensor, into dx: Tensor) { pass(over: p, g, dx) }
    public func rmsNorm(_ x: Tensor, weight: Tensor, epsilon: Double, into out: Tensor) { pass(over: x, out) }
    public func rmsNormPullback(_ x: Tensor, weight: Tensor, _ g: Tensor, epsilon: Double, dx: Tensor, dw: Tensor) {
        pass(over: x, g, dx)
    }
    public func layerNorm(_ x: Tensor, weight: Tensor, bias: Tensor, epsilon: Double, into out: Tensor) {
        pass(over: x, out)
    }
    public func layerNormPullback(
        _ x: Tensor, weight: Tensor, _ g: Tensor, epsilon: Double, dx: Tensor, dw: Tensor, db: Tensor
    ) { pass(over: x, g, dx) }
    public func rotary(_ x: Tensor, cosine: Tensor, sine: Tensor, sign: Double, into out: Tensor) { pass(over: x, out) }
    public func crossEntropy(_ logits: Tensor, targets: Tensor, scale: Double, losses: Tensor, gradient: Tensor?) {
        pass(over: logits, logits)
    }
    public func random(_ distribution: RandomDistribution, key: UInt64, rows: [UInt64], into out: Tensor) {
        pass(over: out)
    }
    public func adamW(_ step: AdamWStep, weight: Tensor, gradient: Tensor, m: Tensor, v: Tensor) {
        pass(over: weight, weight, gradient, m, m, v, v, part: .optimizer)
    }
    public func sgd(
        rate: Double, momentum: Double, decay: Double, gradientScale: Double, weight: Tensor, gradient: Tensor,
        buffer: Tensor?
    ) {
        pass(over: weight, weight, gradient, part: .optimizer)
    }
}
