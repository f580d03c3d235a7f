import TensorCore

/// A backend whose calls are noted in the log of the rehearsal they run on, where that has one.
///
/// Blocks of equal sizes with equally many visible pairs are taken to take the same time, wherever their tokens stand.
public struct NotedAttention<Base: AttentionBackend>: AttentionStandIn {
    public let base: Base

    public init(_ base: Base) { self.base = base }

    public func forward(
        q: Tensor, k: Tensor, v: Tensor, into state: inout AttentionState, _ problem: AttentionProblem
    ) throws {
        note("attention forward", 2, problem, [q, k, v, state.reference, state.sum, state.accumulator]) {
            // Taken out, or the state would be shared while it is written, and copied.
            let accumulator = $0.removeLast(), sum = $0.removeLast(), reference = $0.removeLast()
            var state = AttentionState(reference: reference, sum: sum, accumulator: accumulator)
            try base.forward(q: $0[0], k: $0[1], v: $0[2], into: &state, problem.replayed(on: $0[0].device))
        }
        try base.forward(q: q, k: k, v: v, into: &state, problem)
    }

    public func backward(
        dOut: Tensor, q: Tensor, k: Tensor, v: Tensor, lse: Tensor, delta: Tensor,
        into gradients: inout AttentionGradients, _ problem: AttentionProblem
    ) throws {
        note(
            "attention backward", 5, problem,
            [dOut, q, k, v, lse, delta, gradients.q, gradients.k, gradients.v] + (gradients.bias.map { [$0] } ?? [])
        ) {
            let bias = $0.count > 9 ? $0.removeLast() : nil
            let dv = $0.removeLast(), dk = $0.removeLast(), dq = $0.removeLast()
            var gradients = AttentionGradients(q: dq, k: dk, v: dv, bias: bias)
            try base.backward(
                dOut: $0[0], q: $0[1], k: $0[2], v: $0[3], lse: $0[4], delta: $0[5], into: &gradients,
                problem.replayed(on: $0[0].device))
        }
        try base.backward(
            dOut: dOut, q: q, k: k, v: v, lse: lse, delta: delta, into: &gradients, problem)
    }

    private func note(
        _ name: String, _ products: Int, _ problem: AttentionProblem, _ operands: [Tensor],
        _ operation: @escaping @Sendable (inout [Tensor]) throws -> Void
    ) {
        guard let log = (operands[0].device as? RehearsalDevice)?.log else { return }
        let batch = operands[0].shape[0]
        log.add(
            name, .attention, operands, details: [problem.visiblePairs(batch: batch)],
            flops: problem.flops(products: products, batch: batch), operation)
    }
}
