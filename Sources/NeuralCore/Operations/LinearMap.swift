// Letters: N rows (all leading axes together), I inputs, O outputs.

import TensorCore

extension Tensor {
    /// Multiplies the last axis by a weight and adds a bias: [..., I] -> [..., O], out = x W^T + b.
    ///
    /// The weight is [O, I], the order of Hugging Face's checkpoints, and may be a float32 master of half-precision `x`: it is
    /// cast to the type of `x` for the products, while its gradient is summed in its own type and never rounded in between.
    /// Kept for the backward pass: `x` (only if the weight needs a gradient) and the master weight. Wrong shapes trap.
    public func linear(weight: Tensor, bias: Tensor? = nil) -> Tensor {
        guard weight.rank == 2, let inputs = shape.last, inputs == weight.shape[1] else {
            shapeFault("linear", "[..., I] and a weight [O, I] wanted", self, weight)
        }
        let outputs = weight.shape[0]
        if let bias, bias.shape != [outputs] { shapeFault("linear", "a bias [O] wanted", weight, bias) }

        let x_NI = detached.reshaped([elementCount / max(1, inputs), inputs])
        let w_OI = weight.detached
        let out_NO = Tensor(uninitialised: [x_NI.shape[0], outputs], dtype, on: device)
        device.matmul(x_NI, w_OI.cast(to: dtype).transposed(), into: out_NO, accumulate: false)
        if let bias {
            let b = bias.detached.cast(to: dtype).broadcast(to: out_NO.shape)
            device.binary(.add, out_NO, b, into: out_NO)
        }

        // dx = g W, dW = g^T x, db = sum of g over the rows
        let savedX_NI = weight.isTracked ? x_NI : nil
        let (needsX, biasType, xShape) = (isTracked, bias.flatMap { $0.isTracked ? $0.dtype : nil }, shape)
        return Tensor.record(
            "linear", inputs: [self, weight] + (bias.map { [$0] } ?? []),
            output: out_NO.reshaped(shape.dropLast() + [outputs])
        ) { gradient, sums in
            let device = gradient.device
            let g_NO = gradient.reshaped([gradient.elementCount / max(1, outputs), outputs])
            if needsX {
                let w = w_OI.cast(to: g_NO.dtype)
                if sums[0]?.isUnique() == true {
                    // Another use of x has its gradient there already.
                    device.matmul(g_NO, w, into: sums[0]!.reshaped([g_NO.shape[0], inputs]), accumulate: true)
                } else {
                    let dx_NI = Tensor(uninitialised: [g_NO.shape[0], inputs], g_NO.dtype, on: device)
                    device.matmul(g_NO, w, into: dx_NI, accumulate: false)
                    sums[0].add(dx_NI.reshaped(xShape))
                }
            }
            if let x_NI = savedX_NI {
                let dw = Tensor(uninitialised: [outputs, inputs], w_OI.dtype, on: device, kind: .gradients)
                // Products of half precision give float32 as they are.
                let factors = dw.dtype == .float32 && g_NO.dtype == x_NI.dtype ? x_NI.dtype : dw.dtype
                let (g, x) = (g_NO.cast(to: factors), x_NI.cast(to: factors))
                device.matmul(g.transposed(), x, into: dw, accumulate: false)
                sums[1].add(dw)
            }
            if let biasType {
                let db = Tensor(uninitialised: [1, outputs], biasType, on: device, kind: .gradients)
                device.reduce(.sum, g_NO.cast(to: biasType), axes: [0], into: db)
                sums[2].add(db.reshaped([outputs]))
            }
        }
    }
}
