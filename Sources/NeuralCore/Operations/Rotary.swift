// Letters: B batch, T tokens, H heads, D head size.

import TensorCore

extension Tensor {
    /// Turns each pair (x[i], x[i + D/2]) of a head by its token's angle: [B, T, H, D] -> [B, T, H, D], half against half.
    ///
    /// The tables come from `RotaryEmbedding.tables`: [B|1, T, D/2] in the accumulator type of `x`, constants to the tape. The
    /// backward pass keeps nothing but them. A value that nothing else holds, such as a projection just computed, is turned in place.
    /// Source: Su et al. 2021, section 3.2. Wrong shapes and types trap.
    public consuming func rotary(_ tables: RotaryTables) -> Tensor {
        var x = self
        let (cosine, sine) = (tables.cosine.contiguous(), tables.sine.contiguous())
        guard x.rank == 4, x.shape[3] % 2 == 0, cosine.rank == 3, cosine.shape == sine.shape,
            cosine.shape[0] == 1 || cosine.shape[0] == x.shape[0], cosine.shape[1] == x.shape[1],
            cosine.shape[2] == x.shape[3] / 2
        else { shapeFault("rotary", "[B, T, H, D] and tables [B|1, T, D/2] wanted", x, cosine, sine) }
        if cosine.dtype != x.dtype.accumulator || sine.dtype != x.dtype.accumulator {
            shapeFault("rotary", "tables must have the type \(x.dtype.accumulator)", x, cosine, sine)
        }
        if cosine.isTracked || sine.isTracked {
            shapeFault("rotary", "tables have no gradient; detach them if that is meant", cosine, sine)
        }
        let isOurs = x.isUnique()
        let out_BTHD = isOurs ? x.detached : Tensor(uninitialised: x.shape, x.dtype, on: x.device)
        x.device.rotary(x.detached, cosine: cosine, sine: sine, sign: 1, into: out_BTHD)

        // The transpose of a rotation turns back; a factor in the tables stays. What arrives from attention has its heads outside and is
        // turned into the order of the projection, which it would have to be copied to in any case.
        return Tensor.record("rotary", inputs: [x], output: out_BTHD) { g_BTHD in
            let dx_BTHD = Tensor(uninitialised: g_BTHD.shape, g_BTHD.dtype, on: g_BTHD.device)
            g_BTHD.device.rotary(g_BTHD, cosine: cosine, sine: sine, sign: -1, into: dx_BTHD)
            return [dx_BTHD]
        }
    }
}
