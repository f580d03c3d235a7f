import TensorCore

/// A backend whose calls are noted in the log of the rehearsal they run on, where that has one.
///
/// Stand-in for the backend that does the computing (below a ring, not around it). Blocks of equal sizes with equally many visible pairs
/// are taken to take the same time, wherever their tokens stand.
public struct NotedAttention<Base: AttentionBackend>: AttentionBackend {
    public let base: Base
    public var name: String { base.name }

    public init(_ base: Base) { self.base = base }

    public func unsupportedReasons(_ problem: AttentionProblem) -> [String] { base.unsupportedReasons(problem) }

    public func forward(
        q: Tensor, k: Tensor, v: Tensor, into state: inout AttentionState, _ problem: AttentionProblem
    ) throws {
        note("attention forward", 4, problem, [q, k, v, state.reference, state.sum, state.accumulator]) {
            // Taken out, or the state would be shared while it is written, and copied.
            let accumulator = $0.removeLast(), sum = $0.removeLast(), reference = $0.removeLast()
            var state = AttentionState(reference: reference, sum: sum, accumulator: accumulator)
            try base.forward(q: $0[0], k: $0[1], v: $0[2], into: &state, problem)
        }
        try base.forward(q: q, k: k, v: v, into: &state, problem)
    }

    public func backward(
        dOut: Tensor, q: Tensor, k: Tensor, v: Tensor, lse: Tensor, delta: Tensor,
        into gradients: inout AttentionGradients, _ problem: AttentionProblem
    ) throws {
        note(
            "attention backward", 10, problem,
            [dOut, q, k, v, lse, delta, gradients.q, gradients.k, gradients.v] + (gradients.bias.map { [$0] } ?? [])
        ) {
            let bias = $0.count > 9 ? $0.removeLast() : nil
            let dv = $0.removeLast(), dk = $0.removeLast(), dq = $0.removeLast()
            var gradients = AttentionGradients(q: dq, k: dk, v: dv, bias: bias)
            try base.backward(
                dOut: $0[0], q: $0[1], k: $0[2], v: $0[3], lse: $0[4], delta: $0[5], into: &gradients, problem)
        }
        try base.backward(
            dOut: dOut, q: q, k: k, v: v, lse: lse, delta: delta, into: &gradients, problem)
    }

    private func note(
        _ name: String, _ perElement: Int, _ problem: AttentionProblem, _ operands: [Tensor],
        _ operation: @escaping @Sendable (inout [Tensor]) throws -> Void
    ) {
        guard let log = (operands[0].device as? RehearsalDevice)?.log else { return }
        let pairs = problem.mask.visiblePairs(queries: problem.queries, keys: problem.keys, batch: operands[0].shape[0])
        let flops = Double(perElement * problem.headSize * problem.heads) * Double(pairs)
        log.add(name, .attention, operands, details: [pairs], flops: flops, operation)
    }
}
