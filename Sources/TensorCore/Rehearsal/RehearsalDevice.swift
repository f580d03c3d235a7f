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

    /// Seconds, floating-point operations of products and attention, and bytes of everything else.
    public struct Spending: Sendable, Hashable {
        public var seconds = 0.0
        public var flops = 0.0
        public var bytes = 0.0
    }

    public let name = "rehearsal"
    public let ledger = MemoryLedger()
    public let hasHostMemory = false
    public let speed: DeviceSpeed
    /// Worker threads of the device that is stood in for; kernels ask for memory per thread.
    public let workers: Int
    /// Where each operation is noted; nil for nowhere.
    public let log: OperationLog?
    /// Tokens of each document of a row, where rows have several: what tells documents apart has no value here.
    public let documentLength: Int?
    private let books = Mutex((clock: 0.0, parts: [Part: Spending]()))

    public init(speed: DeviceSpeed, workers: Int, log: OperationLog? = nil, documentLength: Int? = nil) {
        self.documentLength = documentLength
        self.speed = speed
        self.workers = workers
        self.log = log
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
        add(part, seconds, flops, bytes)
    }

    /// Waits until the clock shows `time`.
    public func wait(until time: Double) {
        add(.communication, max(0, time - clock), 0, 0)
    }

    private func add(_ part: Part, _ seconds: Double, _ flops: Double, _ bytes: Double) {
        books.withLock { books in
            books.clock += seconds
            books.parts[part, default: Spending()].seconds += seconds
            books.parts[part, default: Spending()].flops += flops
            books.parts[part, default: Spending()].bytes += bytes
        }
    }

    /// An operation that reads or writes every element of its operands so many times, once where nothing is said; broadcast elements
    /// are one element.
    private func pass(
        _ name: String, _ operands: [Tensor], times: [Int]? = nil, details: [Int] = [], part: Part = .elements,
        _ operation: @escaping @Sendable (any Device, [Tensor]) -> Void
    ) {
        let bytes = zip(operands, times ?? operands.map { _ in 1 }).reduce(0) { sum, operand in
            let (x, times) = operand
            return sum + times * zip(x.shape, x.strides).reduce(x.dtype.byteCount) { $1.1 == 0 ? $0 : $0 * $1.0 }
        }
        note(name, operands, details: details, part, bytes: Double(bytes), operation)
        spend(part, bytes: Double(bytes))
    }

    private func note(
        _ name: String, _ operands: [Tensor], details: [Int] = [], _ part: Part, flops: Double = 0, bytes: Double = 0,
        _ operation: @escaping @Sendable (any Device, [Tensor]) -> Void
    ) {
        log?.add(name, part, operands, details: details, flops: flops, bytes: bytes) { tensors in
            operation(tensors[0].device, tensors)
        }
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

    public func write(_ bytes: UnsafeRawBufferPointer, into out: Tensor) {
        spend(.elements, bytes: Double(out.byteCount))
    }

    public func read(_ x: Tensor, into bytes: UnsafeMutableRawBufferPointer) {
        bytes.initializeMemory(as: UInt8.self, repeating: 0)
    }
}

// MARK: The primitives

extension RehearsalDevice {
    public func fill(_ out: Tensor, with value: Double) {
        pass("fill", [out]) { $0.fill($1[0], with: value) }
    }
    public func copy(_ x: Tensor, into out: Tensor) {
        pass("copy", [x, out]) { $0.copy($1[0], into: $1[1]) }
    }
    public func unary(_ operation: UnaryOperation, _ x: Tensor, into out: Tensor) {
        pass("\(operation)", [x, out]) { $0.unary(operation, $1[0], into: $1[1]) }
    }
    public func binary(_ operation: BinaryOperation, _ a: Tensor, _ b: Tensor, into out: Tensor) {
        pass("\(operation)", [a, b, out]) { $0.binary(operation, $1[0], $1[1], into: $1[2]) }
    }
    public func compare(_ operation: Comparison, _ a: Tensor, _ b: Tensor, into out: Tensor) {
        pass("\(operation)", [a, b, out]) { $0.compare(operation, $1[0], $1[1], into: $1[2]) }
    }
    public func select(_ condition: Tensor, _ a: Tensor, _ b: Tensor, into out: Tensor) {
        pass("select", [condition, a, b, out]) { $0.select($1[0], $1[1], $1[2], into: $1[3]) }
    }
    public func reduce(_ operation: Reduction, _ x: Tensor, axes: [Int], into out: Tensor) {
        pass("reduce \(operation)", [x, out], details: axes) { $0.reduce(operation, $1[0], axes: axes, into: $1[1]) }
    }
    public func argmax(_ x: Tensor, into out: Tensor) {
        pass("argmax", [x, out]) { $0.argmax($1[0], into: $1[1]) }
    }

    public func matmul(_ a: Tensor, _ b: Tensor, into out: Tensor, accumulate: Bool) {
        let flops = 2 * Double(out.elementCount) * Double(a.shape[a.rank - 1])
        note("matmul", [a, b, out], details: [accumulate ? 1 : 0], .products, flops: flops) {
            $0.matmul($1[0], $1[1], into: $1[2], accumulate: accumulate)
        }
        let bytes = [a, b, out].reduce(0) { $0 + $1.byteCount }
        spend(.products, flops: flops, rate: speed.products, bytes: Double(bytes))
    }

    public func gather(_ table: Tensor, _ indices: Tensor, into out: Tensor) {
        pass("gather", [table, indices, out], times: [0, 1, 2]) { $0.gather($1[0], $1[1], into: $1[2]) }
    }
    public func scatterAdd(_ rows: Tensor, _ indices: Tensor, into out: Tensor) {
        pass("scatterAdd", [rows, indices, out], times: [3, 1, 0]) { $0.scatterAdd($1[0], $1[1], into: $1[2]) }
    }
    public func swiGLU(_ gate: Tensor, _ up: Tensor, into out: Tensor) {
        pass("swiGLU", [gate, up, out]) { $0.swiGLU($1[0], $1[1], into: $1[2]) }
    }
    public func swiGLUPullback(_ gate: Tensor, _ up: Tensor, _ g: Tensor, dGate: Tensor, dUp: Tensor) {
        pass("swiGLUPullback", [gate, up, g, dGate, dUp]) {
            $0.swiGLUPullback($1[0], $1[1], $1[2], dGate: $1[3], dUp: $1[4])
        }
    }
    public func softmax(_ x: Tensor, into out: Tensor) {
        pass("softmax", [x, out]) { $0.softmax($1[0], into: $1[1]) }
    }
    public func softmaxPullback(_ p: Tensor, _ g: Tensor, into dx: Tensor) {
        pass("softmaxPullback", [p, g, dx]) { $0.softmaxPullback($1[0], $1[1], into: $1[2]) }
    }
    public func finishSoftmax(reference: Tensor, sum: Tensor, sinks: Tensor?, values: Tensor, lse: Tensor) {
        let operands = [reference, sum, values, lse] + (sinks.map { [$0] } ?? [])
        pass("finishSoftmax", operands, times: [1, 1, 2, 1, 1]) {
            $0.finishSoftmax(
                reference: $1[0], sum: $1[1], sinks: $1.count > 4 ? $1[4] : nil, values: $1[2], lse: $1[3])
        }
    }
    public func rowDots(_ a: Tensor, _ b: Tensor, into out: Tensor) {
        pass("rowDots", [a, b, out]) { $0.rowDots($1[0], $1[1], into: $1[2]) }
    }
    public func rmsNorm(_ x: Tensor, weight: Tensor, epsilon: Double, into out: Tensor) {
        pass("rmsNorm", [x, weight, out]) { $0.rmsNorm($1[0], weight: $1[1], epsilon: epsilon, into: $1[2]) }
    }
    public func rmsNormPullback(_ x: Tensor, weight: Tensor, _ g: Tensor, epsilon: Double, dx: Tensor, dw: Tensor) {
        pass("rmsNormPullback", [x, weight, g, dx, dw]) {
            $0.rmsNormPullback($1[0], weight: $1[1], $1[2], epsilon: epsilon, dx: $1[3], dw: $1[4])
        }
    }
    public func addRMSNorm(
        _ x: Tensor, _ delta: Tensor, weight: Tensor, epsilon: Double, sum: Tensor, into out: Tensor
    ) {
        pass("addRMSNorm", [x, delta, weight, sum, out]) {
            $0.addRMSNorm($1[0], $1[1], weight: $1[2], epsilon: epsilon, sum: $1[3], into: $1[4])
        }
    }
    public func addRMSNormPullback(
        _ x: Tensor, weight: Tensor, _ g: Tensor, epsilon: Double, to dx: Tensor, dw: Tensor
    ) {
        pass("addRMSNormPullback", [x, weight, g, dx, dw], times: [1, 1, 1, 2, 1]) {
            $0.addRMSNormPullback($1[0], weight: $1[1], $1[2], epsilon: epsilon, to: $1[3], dw: $1[4])
        }
    }
    public func layerNorm(_ x: Tensor, weight: Tensor, bias: Tensor, epsilon: Double, into out: Tensor) {
        pass("layerNorm", [x, weight, bias, out]) {
            $0.layerNorm($1[0], weight: $1[1], bias: $1[2], epsilon: epsilon, into: $1[3])
        }
    }
    public func layerNormPullback(
        _ x: Tensor, weight: Tensor, _ g: Tensor, epsilon: Double, dx: Tensor, dw: Tensor, db: Tensor
    ) {
        pass("layerNormPullback", [x, weight, g, dx, dw, db]) {
            $0.layerNormPullback($1[0], weight: $1[1], $1[2], epsilon: epsilon, dx: $1[3], dw: $1[4], db: $1[5])
        }
    }
    public func rotary(_ x: Tensor, cosine: Tensor, sine: Tensor, sign: Double, into out: Tensor) {
        pass("rotary", [x, cosine, sine, out]) {
            $0.rotary($1[0], cosine: $1[1], sine: $1[2], sign: sign, into: $1[3])
        }
    }
    public func crossEntropy(_ logits: Tensor, targets: Tensor, scale: Double, losses: Tensor, gradient: Tensor?) {
        let operands = [logits, targets, losses] + (gradient.map { [$0] } ?? [])
        pass("crossEntropy", operands) {
            $0.crossEntropy(
                $1[0], targets: $1[1], scale: scale, losses: $1[2], gradient: $1.count > 3 ? $1[3] : nil)
        }
    }
    public func random(_ distribution: RandomDistribution, key: UInt64, rows: [UInt64], into out: Tensor) {
        pass("random", [out], details: [rows.count]) { $0.random(distribution, key: key, rows: rows, into: $1[0]) }
    }
    public func adamW(_ step: AdamWStep, _ leaves: [AdamWLeaf]) {
        // Noted leaf by leaf: all together need not fit the machine that measures.
        for leaf in leaves {
            let decay = leaf.weightDecay
            pass("adamW", [leaf.weight, leaf.gradient, leaf.m, leaf.v], times: [2, 1, 2, 2], part: .optimizer) {
                $0.adamW(step, [AdamWLeaf(weight: $1[0], gradient: $1[1], m: $1[2], v: $1[3], weightDecay: decay)])
            }
        }
    }
    public func sgd(
        rate: Double, momentum: Double, decay: Double, gradientScale: Double, weight: Tensor, gradient: Tensor,
        buffer: Tensor?
    ) {
        let operands = [weight, gradient] + (buffer.map { [$0] } ?? [])
        pass("sgd", operands, times: [2, 1, 2], part: .optimizer) {
            $0.sgd(
                rate: rate, momentum: momentum, decay: decay, gradientScale: gradientScale, weight: $1[0],
                gradient: $1[1], buffer: $1.count > 2 ? $1[2] : nil)
        }
    }
}
