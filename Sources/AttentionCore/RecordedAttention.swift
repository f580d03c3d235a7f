import TensorCore

/// A backend whose calls are operations in the profile of the device they run on, where that has a recorder.
///
/// So its time is apart from waiting. Work is counted for visible pairs alone (`AttentionProblem.flops`).
public struct RecordedAttention<Base: AttentionBackend>: AttentionStandIn {
    public let base: Base

    public init(_ base: Base) { self.base = base }

    public func forward(
        q: Tensor, k: Tensor, v: Tensor, into state: inout AttentionState, _ problem: AttentionProblem
    ) throws {
        let span = q.device.recorder?.open(
            "attention forward", flops: problem.flops(products: 2, batch: q.shape[0]),
            moving: [q, k, v, state.accumulator])
        defer { span?.close() }
        try base.forward(q: q, k: k, v: v, into: &state, problem)
    }

    public func backward(
        dOut: Tensor, q: Tensor, k: Tensor, v: Tensor, lse: Tensor, delta: Tensor,
        into gradients: inout AttentionGradients, _ problem: AttentionProblem
    ) throws {
        let span = q.device.recorder?.open(
            "attention backward", flops: problem.flops(products: 5, batch: q.shape[0]),
            moving: [dOut, q, k, v, lse, delta, gradients.q, gradients.k, gradients.v])
        defer { span?.close() }
        try base.backward(
            dOut: dOut, q: q, k: k, v: v, lse: lse, delta: delta, into: &gradients, problem)
    }
}
