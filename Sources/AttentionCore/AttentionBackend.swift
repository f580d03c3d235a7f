import TensorCore

/// A way to compute exact attention.
///
/// q [B, H, Tq, D]; k, v [B, Hkv, Tk, D], strided: [B, T, H, D] memory straight from a projection is read without a copy.
/// State, output and gradients are float32 (float64 for float64 inputs) whatever the inputs. lse [B, H, Tq] is the natural logarithm
/// of the sum of exponentials, -inf where a row saw no key (the output is 0 there). It is float64 always: P = exp(S - lse), so at
/// logits of a few hundred a float32 lse alone would cost three times the error of a naive computation.
///
/// A backend refuses, with reasons, what it cannot do; it never approximates or ignores a term of the mask.
public protocol AttentionBackend: Sendable {
    /// The name by which a config chooses it.
    var name: String { get }

    /// Empty when this problem can run here; otherwise every reason, written for a person. Nothing else describes capability.
    func unsupportedReasons(_ problem: AttentionProblem) -> [String]

    /// Folds these keys into the running state of the queries. Calls with disjoint keys, in any order and of any size, give the
    /// state over all of them.
    func forward(
        q: Tensor, k: Tensor, v: Tensor, into state: inout AttentionState, _ problem: AttentionProblem) throws

    /// Adds these keys' share to the gradients.
    ///
    /// `dOut` has the element type of q or of the accumulator. `lse` (float64) and `delta` (row sums of dOut * out), both [B, H, Tq],
    /// are over ALL keys, so any subset of keys is a valid call. With
    /// P = exp(S - lse): dV += P^T dOut, dS = P * (dOut V^T - delta), dQ += scale dS K, dK += scale dS^T Q (Dao et al. 2022,
    /// appendix B.2, with the derivative of the soft cap between dS and dQ, dK).
    func backward(
        dOut: Tensor, q: Tensor, k: Tensor, v: Tensor, lse: Tensor, delta: Tensor,
        into gradients: inout AttentionGradients, _ problem: AttentionProblem) throws
}

extension AttentionBackend {
    /// Throws an error with every reason when the problem cannot run here.
    public func requireSupport(_ problem: AttentionProblem) throws {
        let reasons = unsupportedReasons(problem)
        if !reasons.isEmpty {
            throw RingZooError(
                .config, "attention backend '\(name)' cannot run this problem",
                tried: reasons + ["'ringzoo backends' lists the others"])
        }
    }

    /// Attention over all keys in one call.
    public func forward(q: Tensor, k: Tensor, v: Tensor, _ problem: AttentionProblem) throws -> AttentionResult {
        try requireSupport(problem)
        problem.check(q: q, k: k, v: v)
        var state = AttentionState(problem, batch: q.shape[0], on: q.device)
        try forward(q: q, k: k, v: v, into: &state, problem)
        try q.device.ledger.checkFailure()
        // Consumed, or the accumulator would be shared while it is normalised, and copied.
        return (consume state).finish(problem.mask.sinks)
    }

    /// Gradients over all keys in one call, from the result of `forward`.
    /// - Parameter includingBias: false where nobody asks for the gradient of the mask's bias; it costs memory of the bias's size.
    public func backward(
        dOut: Tensor, q: Tensor, k: Tensor, v: Tensor, _ result: AttentionResult, _ problem: AttentionProblem,
        includingBias: Bool = true
    ) throws -> AttentionGradients {
        try requireSupport(problem)
        problem.check(q: q, k: k, v: v)
        let delta = Tensor(uninitialised: result.lse.shape, result.out.dtype, on: q.device)
        q.device.rowDots(dOut.detached, result.out, into: delta)
        var gradients = AttentionGradients(problem, batch: q.shape[0], on: q.device)
        if !includingBias { gradients.bias = nil }
        try backward(dOut: dOut, q: q, k: k, v: v, lse: result.lse, delta: delta, into: &gradients, problem)
        // The sink takes part in the sum alone: d sink_h = - sum_i exp(sink_h - lse_i) delta_i.
        if let sinks = problem.mask.sinks {
            let sink = sinks.detached.cast(to: .float64).reshaped([1, problem.heads, 1])
            let share = (sink - result.lse).exponential.cast(to: delta.dtype)
            gradients.sinks = -(share * delta).sum(axes: [0, 2])
        }
        try q.device.ledger.checkFailure()
        return gradients
    }
}

/// Output [B, H, Tq, D] of the accumulator type and lse [B, H, Tq] float64.
public struct AttentionResult: Sendable {
    public var out: Tensor
    public var lse: Tensor
}

/// Running gradients, all of the accumulator type, contiguous and unique to the call that adds to them.
public struct AttentionGradients: Sendable {
    /// [B, H, Tq, D]
    public var q: Tensor
    /// [B, Hkv, Tk, D]
    public var k: Tensor
    /// [B, Hkv, Tk, D]
    public var v: Tensor
    /// The shape of the bias; nil where there is none, or nobody asks for its gradient.
    public var bias: Tensor?
    /// [H]; set by the one-call form where there are sinks.
    public var sinks: Tensor?

    public init(q: Tensor, k: Tensor, v: Tensor, bias: Tensor?) {
        self.q = q
        self.k = k
        self.v = v
        self.bias = bias
    }

    /// Zeros.
    public init(_ problem: AttentionProblem, batch: Int, on device: any Device) {
        let type = problem.accumulator
        q = .zeros([batch, problem.heads, problem.queries.count, problem.headSize], type, on: device)
        k = .zeros([batch, problem.keyHeads, problem.keys.count, problem.headSize], type, on: device)
        v = .zeros([batch, problem.keyHeads, problem.keys.count, problem.headSize], type, on: device)
        bias = problem.mask.bias.map { .zeros($0.shape, type, on: device) }
    }
}
