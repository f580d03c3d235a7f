/// Elementwise functions of one tensor.
public enum UnaryOperation: Int32, Sendable {
    case negate, absolute, sign, square, squareRoot, reciprocalSquareRoot, reciprocal, exponential, logarithm, sine,
        cosine
    case hyperbolicTangent, errorFunction, sigmoid, silu, gelu, geluTanh, relu
}

/// Elementwise functions of two tensors; the last three are derivatives, (x, g) -> f'(x) g.
public enum BinaryOperation: Int32, Sendable {
    case add, subtract, multiply, divide, power, maximum, minimum
    case siluPullback, geluPullback, geluTanhPullback
}

public enum Comparison: Int32, Sendable { case equal, notEqual, less, lessOrEqual }

public enum Reduction: Int32, Sendable { case sum, maximum, minimum, sumOfSquares }

public enum RandomDistribution: Sendable {
    /// [0, 1), 24 bits.
    case uniform
    /// Mean 0, standard deviation 1.
    case normal
}

/// Everything tensors ask of the place where they live: memory and a small set of primitives. A plugin that implements it can
/// own storage and run whole models; the CPU is the first implementation.
///
/// A device enqueues work and may return before it is done; `read` is the only synchronisation. Frees happen in queue order.
/// (On the CPU everything has happened when a call returns.) Primitives do not throw: a failure sticks to the ledger and
/// surfaces in `checkFailure`, which `valueAndGradient`, attention and models call. Shapes and types have been checked by the
/// caller: operands are broadcast to the shape of `out` (stride 0), `out` is contiguous unless stated, and none is tracked.
public protocol Device: AnyObject, Sendable {
    /// For people: "cpu", "cpu:1", "cuda:0".
    var name: String { get }
    var ledger: MemoryLedger { get }
    /// True when `Storage.address` can be read by the host.
    var hasHostMemory: Bool { get }
    /// Who is told about each operation as it runs; nil, the usual case, for nobody. A device without a profile ignores what is set.
    var recorder: OperationRecorder? { get set }

    // Memory

    /// Uninitialised memory, aligned to at least 64 bytes.
    func allocate(byteCount: Int, kind: MemoryKind) -> Storage
    func release(address: UnsafeMutableRawPointer, byteCount: Int, kind: MemoryKind)
    /// Copies host bytes into a contiguous tensor.
    func write(_ bytes: UnsafeRawBufferPointer, into out: Tensor)
    /// Copies a contiguous tensor to the host; waits until its value is there.
    func read(_ x: Tensor, into bytes: UnsafeMutableRawBufferPointer)

    // Elementwise

    func fill(_ out: Tensor, with value: Double)
    /// Copies with a conversion of the type where they differ; `out` may be strided.
    func copy(_ x: Tensor, into out: Tensor)
    func unary(_ operation: UnaryOperation, _ x: Tensor, into out: Tensor)
    /// `out` may be one of the operands' own storage (in place).
    func binary(_ operation: BinaryOperation, _ a: Tensor, _ b: Tensor, into out: Tensor)
    /// silu(gate) up, all contiguous.
    func swiGLU(_ gate: Tensor, _ up: Tensor, into out: Tensor)
    func swiGLUPullback(_ gate: Tensor, _ up: Tensor, _ g: Tensor, dGate: Tensor, dUp: Tensor)
    func compare(_ operation: Comparison, _ a: Tensor, _ b: Tensor, into out: Tensor)
    func select(_ condition: Tensor, _ a: Tensor, _ b: Tensor, into out: Tensor)

    // Reductions and products

    /// `out` has extent 1 along every reduced axis. Float sums are kept in float64 and rounded once.
    func reduce(_ operation: Reduction, _ x: Tensor, axes: [Int], into out: Tensor)
    /// Index of the first largest element along the last axis, int64.
    func argmax(_ x: Tensor, into out: Tensor)
    /// out [..., M, N] = a [..., M, K] b [..., K, N], or added to what is there. Factors of half precision give a
    /// result of their type or float32; sums are float32, rounded once.
    func matmul(_ a: Tensor, _ b: Tensor, into out: Tensor, accumulate: Bool)

    // Rows

    /// out[i, ...] = table[indices[i], ...]; negative indices give rows of zeros.
    func gather(_ table: Tensor, _ indices: Tensor, into out: Tensor)
    /// into[indices[i], ...] += rows[i, ...] in the order of i; negative indices are skipped.
    func scatterAdd(_ rows: Tensor, _ indices: Tensor, into out: Tensor)
    func softmax(_ x: Tensor, into out: Tensor)
    func softmaxPullback(_ p: Tensor, _ g: Tensor, into dx: Tensor)
    /// Ends online softmaxes (Milakov and Gimelshein 2018) whose terms were divided by 2^reference: values [B, H, T, D] are divided in place
    /// by sum + exp(sink) 2^-reference, and lse [B, H, T] (float64) is ln of that, plus reference ln 2. Where sum is 0, values become zeros
    /// and lse the sink, or -inf. reference and sum [B, H, T] and sinks [H] have the type of `values`, float32 or float64.
    func finishSoftmax(reference: Tensor, sum: Tensor, sinks: Tensor?, values: Tensor, lse: Tensor)
    /// out [...] = sums of a b over their last axis, kept in float64 and rounded once. b and out have the accumulator type of a.
    func rowDots(_ a: Tensor, _ b: Tensor, into out: Tensor)
    /// Over the last axis: x rsqrt(mean(x^2) + epsilon) w.
    func rmsNorm(_ x: Tensor, weight: Tensor, epsilon: Double, into out: Tensor)
    /// dw has the accumulator type and is overwritten.
    func rmsNormPullback(_ x: Tensor, weight: Tensor, _ g: Tensor, epsilon: Double, dx: Tensor, dw: Tensor)
    /// A residual and its norm: sum = x + delta, out = rmsNorm(sum).
    func addRMSNorm(_ x: Tensor, _ delta: Tensor, weight: Tensor, epsilon: Double, sum: Tensor, into out: Tensor)
    /// `rmsNormPullback` whose dx is added to what is there.
    func addRMSNormPullback(_ x: Tensor, weight: Tensor, _ g: Tensor, epsilon: Double, to dx: Tensor, dw: Tensor)
    func layerNorm(_ x: Tensor, weight: Tensor, bias: Tensor, epsilon: Double, into out: Tensor)
    func layerNormPullback(
        _ x: Tensor, weight: Tensor, _ g: Tensor, epsilon: Double, dx: Tensor, dw: Tensor, db: Tensor)
    /// Half against half along the last axis of x [B, T, H, D]; cosine and sine [B|1, T, D/2] in the accumulator type;
    /// sign -1 turns back. `out` may be x itself.
    func rotary(_ x: Tensor, cosine: Tensor, sine: Tensor, sign: Double, into out: Tensor)
    /// Softmax cross-entropy of logits [N, V] against int32 targets [N], a negative target being ignored: losses [N] float64, 0
    /// where ignored; with `gradient` (may be the logits themselves) also (softmax - onehot) * scale, 0 where ignored.
    func crossEntropy(_ logits: Tensor, targets: Tensor, scale: Double, losses: Tensor, gradient: Tensor?)

    // Random numbers and optimizers

    /// Element (row, column) of out [rows.count, columns] (float32) is a pure function of key, rows[row] and column.
    func random(_ distribution: RandomDistribution, key: UInt64, rows: [UInt64], into out: Tensor)
    func adamW(_ step: AdamWStep, _ leaves: [AdamWLeaf])
    /// w -= rate * (momentum buffer, or gradient where there is none).
    func sgd(
        rate: Double, momentum: Double, decay: Double, gradientScale: Double, weight: Tensor, gradient: Tensor,
        buffer: Tensor?)
}

extension Device {
    public var recorder: OperationRecorder? {
        get { nil }
        set {}
    }
}

/// One parameter of an AdamW update: float32 or float64 tensors of one shape, of which all but the gradient are written in place.
public struct AdamWLeaf: Sendable {
    public var weight, gradient, m, v: Tensor
    public var weightDecay: Double

    public init(weight: Tensor, gradient: Tensor, m: Tensor, v: Tensor, weightDecay: Double) {
        (self.weight, self.gradient, self.m, self.v) = (weight, gradient, m, v)
        self.weightDecay = weightDecay
    }
}

/// The numbers of one AdamW update (Loshchilov and Hutter 2019, algorithm 2); gradients are multiplied by `gradientScale` first.
public struct AdamWStep: Sendable, Hashable {
    public var rate, beta1, beta2, epsilon, gradientScale: Double
    /// Counted from 1; decides the bias corrections.
    public var step: Int

    public init(
        rate: Double, beta1: Double, beta2: Double, epsilon: Double, gradientScale: Double, step: Int
    ) {
        self.rate = rate
        self.beta1 = beta1
        self.beta2 = beta2
        self.epsilon = epsilon
        self.gradientScale = gradientScale
        self.step = step
    }
}
