// Letters: M model width.

import TensorCore

extension Tensor {
    /// Scales every row of the last axis to unit root mean square: x rsqrt(mean(x^2) + epsilon) w, [..., M] -> [..., M].
    ///
    /// Statistics are kept in float32 or wider whatever the type of `x`; the weight [M] may be a float32 master of half-precision
    /// `x`. Kept for the backward pass: `x` and the weight. Source: Zhang and Sennrich 2019, equation 4. Wrong shapes trap.
    public func rmsNorm(weight: Tensor, epsilon: Double) -> Tensor {
        guard rank >= 1, weight.shape == [shape[rank - 1]] else {
            shapeFault("rmsNorm", "[..., M] and a weight [M] wanted", self, weight)
        }
        let out = Tensor(uninitialised: shape, dtype, on: device)
        device.rmsNorm(detached, weight: weight.detached.cast(to: dtype), epsilon: epsilon, into: out)
        return recordRMSNorm(out, weight: weight, epsilon: epsilon)
    }

    /// A residual and its norm in one pass: (x + delta, rmsNorm(x + delta)), all [..., M].
    ///
    /// The same values as the two operations one after the other, also in half precision, where the sum is rounded before its norm
    /// is taken. Types and memory as in `rmsNorm`. Different shapes or types trap.
    public func addingRMSNorm(_ delta: Tensor, weight: Tensor, epsilon: Double) -> (sum: Tensor, norm: Tensor) {
        guard rank >= 1, weight.shape == [shape[rank - 1]], delta.shape == shape, delta.dtype == dtype else {
            shapeFault("addingRMSNorm", "two [..., M] of one type and a weight [M] wanted", self, delta, weight)
        }
        let h = Tensor(uninitialised: shape, dtype, on: device)
        let out = Tensor(uninitialised: shape, dtype, on: device)
        let w = weight.detached.cast(to: dtype)
        device.addRMSNorm(detached, delta.detached, weight: w, epsilon: epsilon, sum: h, into: out)

        // dx = ddelta = g
        let sum = Tensor.record("residual", inputs: [self, delta], output: h) { g in [g, g] }
        return (sum, sum.recordRMSNorm(out, weight: weight, epsilon: epsilon))
    }

    /// `out` as the norm of this tensor. The other gradients of `x`, where it is a residual, are in memory already when this one comes
    /// up, and dx is added to them in the same pass.
    private func recordRMSNorm(_ out: Tensor, weight: Tensor, epsilon: Double) -> Tensor {
        let (x, w) = (detached, weight.detached)
        // With r = rsqrt(mean(x^2) + epsilon): dx = r w g - x r^3 mean(g w x), dw = sum over rows of g x r
        return Tensor.record("rmsNorm", inputs: [self, weight], output: out) { g, sums in
            let device = x.device
            let dw = Tensor(uninitialised: w.shape, x.dtype.accumulator, on: device, kind: .gradients)
            if var dx = sums[0].take() {
                dx.makeUnique()
                device.addRMSNormPullback(x, weight: w.cast(to: x.dtype), g, epsilon: epsilon, to: dx, dw: dw)
                sums[0] = dx
            } else {
                let dx = Tensor(uninitialised: x.shape, x.dtype, on: device)
                device.rmsNormPullback(x, weight: w.cast(to: x.dtype), g, epsilon: epsilon, dx: dx, dw: dw)
                sums[0] = dx
            }
            sums[1].add(dw.cast(to: w.dtype))
        }
    }

    /// Shifts and scales every row of the last axis to mean 0 and variance 1, then by weight and bias: [..., M] -> [..., M].
    ///
    /// Types and memory as in `rmsNorm`. Source: Ba, Kiros, Hinton 2016, equation 3. Wrong shapes trap.
    public func layerNorm(weight: Tensor, bias: Tensor, epsilon: Double) -> Tensor {
        guard rank >= 1, weight.shape == [shape[rank - 1]], bias.shape == weight.shape else {
            shapeFault("layerNorm", "[..., M], a weight [M] and a bias [M] wanted", self, weight, bias)
        }
        let (x, w, b) = (detached, weight.detached, bias.detached)
        let out = Tensor(uninitialised: shape, dtype, on: device)
        device.layerNorm(x, weight: w.cast(to: dtype), bias: b.cast(to: dtype), epsilon: epsilon, into: out)

        // With h = (x - mean) r and u = g w: dx = r (u - mean(u) - h mean(u h)), dw = sum of g h, db = sum of g
        let biasType = bias.dtype
        return Tensor.record("layerNorm", inputs: [self, weight, bias], output: out) { g in
            let dx = Tensor(uninitialised: x.shape, x.dtype, on: x.device)
            let dw = Tensor(uninitialised: w.shape, x.dtype.accumulator, on: x.device, kind: .gradients)
            let db = Tensor(uninitialised: w.shape, x.dtype.accumulator, on: x.device, kind: .gradients)
            x.device.layerNormPullback(x, weight: w.cast(to: x.dtype), g, epsilon: epsilon, dx: dx, dw: dw, db: db)
            return [dx, dw.cast(to: w.dtype), db.cast(to: biasType)]
        }
    }
}
