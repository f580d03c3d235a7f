// Letters: N tokens (all leading axes together), V vocabulary.

import TensorCore

extension Tensor {
    /// Sum of the losses -log softmax(logits)[target] over the targets that are not negative: logits [..., V] and int32 targets
    /// [...] -> a scalar, float64 for float64 logits and float32 for all others.
    ///
    /// A negative target is ignored: it adds nothing and its row's gradient is exactly zero. The caller divides by the number of
    /// targets, since only it knows that number over all ranks. Half-precision logits are widened to float32. The backward
    /// pass keeps the logits and computes the softmax again. Wrong shapes, and targets of V or more, trap.
    public func crossEntropy(targets: Tensor) -> Tensor {
        guard let vocabulary = shape.last, Array(shape.dropLast()) == targets.shape, targets.dtype == .int32 else {
            shapeFault("crossEntropy", "logits [..., V] and int32 targets [...] wanted", self, targets)
        }
        let count = targets.elementCount
        let targets_N = targets.detached.contiguous().reshaped([count])
        let logits = detached
        let wide = dtype.accumulator
        let losses_N = Tensor(uninitialised: [count], .float64, on: device)
        let logits_NV = logits.cast(to: wide).contiguous().reshaped([count, vocabulary])
        device.crossEntropy(logits_NV, targets: targets_N, scale: 1, losses: losses_N, gradient: nil)

        // dlogits = (softmax(logits) - onehot(target)) g, 0 where ignored
        return Tensor.record("crossEntropy", inputs: [self], output: losses_N.sum().cast(to: wide)) { g in
            let logits_NV = logits.cast(to: wide).contiguous().reshaped([count, vocabulary])
            let d_NV = Tensor(uninitialised: [count, vocabulary], wide, on: g.device)
            g.device.crossEntropy(logits_NV, targets: targets_N, scale: 1, losses: losses_N, gradient: d_NV)
            g.device.binary(.multiply, d_NV, g.broadcast(to: d_NV.shape), into: d_NV)
            return [d_NV.cast(to: logits.dtype).reshaped(logits.shape)]
        }
    }
}
