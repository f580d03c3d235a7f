import TensorCore

extension Tensor {
    /// silu(gate) * up for two tensors of one shape and type.
    ///
    /// Only the two inputs are kept for the backward pass. Source: Shazeer 2020, equation 6. Different shapes or types trap.
    public static func swiGLU(_ gate: Tensor, _ up: Tensor) -> Tensor {
        if gate.shape != up.shape || gate.dtype != up.dtype {
            shapeFault("swiGLU", "two tensors of one shape and type wanted", gate, up)
        }
        let (a, b) = (gate.detached.contiguous(), up.detached.contiguous())
        let out = Tensor(uninitialised: a.shape, a.dtype, on: a.device)
        a.device.swiGLU(a, b, into: out)

        // da = silu'(a) b g, db = silu(a) g
        return record("swiGLU", inputs: [gate, up], output: out) { g in
            let da = Tensor(uninitialised: a.shape, a.dtype, on: a.device)
            let db = Tensor(uninitialised: a.shape, a.dtype, on: a.device)
            a.device.swiGLUPullback(a, b, g.contiguous(), dGate: da, dUp: db)
            return [da, db]
        }
    }
}
