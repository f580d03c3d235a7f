// Letters: B batch, T tokens, H heads, D head size.

import TensorCore

extension Tensor {
    /// Turns each pair (x[i], x[i + D/2]) of a head by its token's angle: [B, T, H, D] -> [B, T, H, D], half against half.
    ///
    /// The tables come from `RotaryEmbedding.tables`: [B|1, T, D/2] in the accumulator type of `x`, constants to the tape. The
    /// backward pass keeps nothing but them. Source: Su et al. 2021, section 3.2. Wrong shapes and types trap.
    public func rotary(_ tables: RotaryTables) -> Tensor {
        let (cosine, sine) = (tables.cosine.contiguous(), tables.sine.contiguous())
        guard rank == 4, shape[3] % 2 == 0, cosine.rank == 3, cosine.shape == sine.shape,
            cosine.shape[0] == 1 || cosine.shape[0] == shape[0], cosine.shape[1] == shape[1],
            cosine.shape[2] == shape[3] / 2
        else { shapeFault("rotary", "[B, T, H, D] and tables [B|1, T, D/2] wanted", self, cosine, sine) }
        if cosine.dtype != dtype.accumulator || sine.dtype != dtype.accumulator {
            shapeFault("rotary", "tables must have the type \(dtype.accumulator)", self, cosine, sine)
        }
        if cosine.isTracked || sine.isTracked {
            shapeFault("rotary", "tables have no gradient; detach them if that is meant", cosine, sine)
        }
        let out_BTHD = Tensor(uninitialised: shape, dtype, on: device)
        device.rotary(detached, cosine: cosine, sine: sine, sign: 1, into: out_BTHD)

        // The transpose of a rotation turns back; a factor in the tables stays.
        return Tensor.record("rotary", inputs: [self], output: out_BTHD) { g_BTHD in
            let dx_BTHD = Tensor(uninitialised: g_BTHD.shape, g_BTHD.dtype, on: g_BTHD.device)
            g_BTHD.device.rotary(g_BTHD, cosine: cosine, sine: sine, sign: -1, into: dx_BTHD)
            return [dx_BTHD]
        }
    }
}
