// Letters: B batch, T tokens, N = B T rows, M model width, V vocabulary, C rows of a chunk.

import TensorCore

/// Language-model head and cross-entropy in one: the sum of losses of hidden [B, T, M] through a weight [V, M] against int32
/// targets [B, T], as a scalar of the weight's accumulator type, without the logits [T, V] ever existing whole.
///
/// Negative targets are ignored (no loss, exactly zero gradient); the caller divides by the global number of targets. Logits,
/// losses and the weight's gradient have the weight's own type. Where `hidden` is half precision and the weight its float32 master,
/// the products take factors of half precision, as those of every layer do (`Tensor.linear`): the weight, and the logits' gradients, are
/// rounded for them, and logits are float32 sums that are not.
///
/// The gradients of `hidden` and `weight` are computed in the same pass and only scaled in the backward pass. That takes 3
/// products instead of the 4 of computing logits again, and costs no memory at the peak: a loss stands at the end of a model, so
/// its backward pass, which needs both gradients, starts right after it. Without a tape there is the forward product alone.
///
/// Memory beyond inputs and gradients: one chunk of logits [C, V] and 8 N bytes; with a master weight also that weight and a chunk of
/// the logits' gradients in half precision.
/// Wrong shapes, and targets of V or more, trap.
/// - Parameter slice: where `weight` has some rows of the vocabulary only, which ones; the gradient of `hidden` is this slice's share
///   then. - Throws: what its communicator throws; nothing without it.
public func chunkedCrossEntropy(
    hidden: Tensor, weight: Tensor, targets: Tensor, chunk: ChunkSize = .auto, over slice: VocabularySlice? = nil
) throws -> Tensor {
    guard weight.rank == 2, let width = hidden.shape.last, weight.shape[1] == width,
        Array(hidden.shape.dropLast()) == targets.shape, targets.dtype == .int32,
        weight.dtype == .float32 || weight.dtype == .float64
    else {
        shapeFault(
            "chunkedCrossEntropy",
            "hidden [B, T, M], a float32 or float64 weight [V, M] and int32 targets [B, T] wanted",
            hidden, weight, targets)
    }
    let device = hidden.device
    let (count, vocabulary, type) = (targets.elementCount, weight.shape[0], weight.dtype)
    let factors = hidden.dtype.accumulator == type ? hidden.dtype : type
    let w_VM = weight.detached.cast(to: factors)
    let h_NM = hidden.detached.reshaped([count, width])
    let targets_N = targets.detached.contiguous().reshaped([count])
    let losses_N = Tensor(uninitialised: [count], .float64, on: device)
    let dh_NM = hidden.isTracked ? Tensor(uninitialised: [count, width], hidden.dtype, on: device) : nil
    let dw_VM =
        weight.isTracked ? Tensor(uninitialised: [vocabulary, width], type, on: device, kind: .gradients) : nil
    if count == 0, let dw_VM { device.fill(dw_VM, with: 0) }

    let step = chunk.rows(of: count, bytesPerRow: vocabulary * type.byteCount)
    let logits = Tensor(uninitialised: [min(step, count), vocabulary], type, on: device)
    let needed = dh_NM != nil || dw_VM != nil
    // The gradient (softmax - onehot) takes the place of the logits, and is rounded from there.
    let gradients =
        needed && factors != type ? Tensor(uninitialised: logits.shape, factors, on: device) : logits
    for start in stride(from: 0, to: count, by: step) {
        let rows = start..<min(count, start + step)
        let h_CM = h_NM.slice(axis: 0, rows).cast(to: factors)
        let chunk = 0..<rows.count
        let logits_CV = logits.slice(axis: 0, chunk)
        device.matmul(h_CM, w_VM.transposed(), into: logits_CV, accumulate: false)
        let (targets_C, losses_C) = (targets_N.slice(axis: 0, rows), losses_N.slice(axis: 0, rows))
        let gradient = needed ? logits_CV : nil
        if let slice {
            try slice.crossEntropy(logits_CV, targets: targets_C, losses: losses_C, gradient: gradient)
        } else {
            device.crossEntropy(logits_CV, targets: targets_C, scale: 1, losses: losses_C, gradient: gradient)
        }
        guard needed else { continue }
        let g_CV = gradients.slice(axis: 0, chunk)
        if factors != type { device.copy(logits_CV, into: g_CV) }
        if let dh_NM {
            let target = dh_NM.slice(axis: 0, rows)
            let dh_CM = target.dtype == factors ? target : Tensor(uninitialised: target.shape, factors, on: device)
            device.matmul(g_CV, w_VM, into: dh_CM, accumulate: false)
            if target.dtype != factors { device.copy(dh_CM, into: target) }
        }
        if let dw_VM { device.matmul(g_CV.transposed(), h_CM, into: dw_VM, accumulate: start > 0) }
    }

    let shape = hidden.shape
    return Tensor.record(
        "chunkedCrossEntropy", inputs: [hidden, weight], output: losses_N.sum().cast(to: type)
    ) { g in
        // A loss that stands at the end of a model has a gradient of 1, which need not be multiplied by. In place: nobody else holds
        // these two, and a tape runs a pullback once.
        for d in [dh_NM, dw_VM].compactMap({ $0 }) where g.item != 1 {
            d.device.binary(.multiply, d, g.cast(to: d.dtype).broadcast(to: d.shape), into: d)
        }
        return [dh_NM?.reshaped(shape), dw_VM]
    }
}
