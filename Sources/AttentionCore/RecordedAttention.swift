import TensorCore

/// A backend whose calls are operations in the profile of the device they run on, where that has a recorder.
///
/// Stand-in for the backend that does the computing (below a ring, not around it), so that its time is apart from waiting. Work
/// is counted for visible pairs alone: 4 D operations each forward and 10 D backward.
public struct RecordedAttention<Base: AttentionBackend>: AttentionBackend {
    public let base: Base
    public var name: String { base.name }

    public init(_ base: Base) { self.base = base }

    public func unsupportedReasons(_ problem: AttentionProblem) -> [String] { base.unsupportedReasons(problem) }

    public func forward(
        q: Tensor, k: Tensor, v: Tensor, into state: inout AttentionState, _ problem: AttentionProblem
    ) throws {
        let span = q.device.recorder?.open(
            "attention forward", flops: flops(4, problem, q), moving: [q, k, v, state.accumulator])
        defer { span?.close() }
        try base.forward(q: q, k: k, v: v, into: &state, problem)
    }

    public func backward(
        dOut: Tensor, q: Tensor, k: Tensor, v: Tensor, lse: Tensor, delta: Tensor,
        into gradients: inout AttentionGradients, _ problem: AttentionProblem
    ) throws {
        let span = q.device.recorder?.open(
            "attention backward", flops: flops(10, problem, q),
            moving: [dOut, q, k, v, lse, delta, gradients.q, gradients.k, gradients.v])
        defer { span?.close() }
        try base.backward(
            dOut: dOut, q: q, k: k, v: v, lse: lse, delta: delta, into: &gradients, problem)
    }

    private func flops(_ perElement: Int, _ problem: AttentionProblem, _ q: Tensor) -> Double {
        let pairs = problem.mask.visiblePairs(queries: problem.queries, keys: problem.keys, batch: q.shape[0])
        return Double(perElement * problem.headSize * problem.heads) * Double(pairs)
    }
}
