import TensorCore

/// Attention as one operation of the tape: [B, H, Tq, D], in the type of q.
///
/// What is kept for the backward pass: q, k, v, the output and lse; nothing of size Tq x Tk. Gradients reach q, k, v and, where the
/// mask has them and they are tracked, bias and sinks.
/// - Parameter layer: of the model, for errors.
/// - Throws: the backend's refusal with its reasons, and what it meets (a lost peer, a device's failure), saying in which layer.
public func attend(
    _ q: Tensor, _ k: Tensor, _ v: Tensor, _ problem: AttentionProblem, on backend: any AttentionBackend,
    layer: Int? = nil
) throws -> Tensor {
    let (biasInput, sinksInput) = (problem.mask.bias, problem.mask.sinks)
    var constant = problem
    constant.mask.bias = biasInput?.detached
    constant.mask.sinks = sinksInput?.detached
    let (qd, kd, vd) = (q.detached, k.detached, v.detached)
    let result = try naming(layer) { try backend.forward(q: qd, k: kd, v: vd, constant) }
    let inputs = [q, k, v] + [biasInput, sinksInput].compactMap { $0 }
    let (saved, wantsBias) = (constant, biasInput?.isTracked ?? false)
    return Tensor.record("attention", inputs: inputs, output: result.out.cast(to: q.dtype)) { dOut in
        let gradients = try naming(layer) {
            try backend.backward(dOut: dOut, q: qd, k: kd, v: vd, result, saved, includingBias: wantsBias)
        }
        return [gradients.q.cast(to: qd.dtype), gradients.k.cast(to: kd.dtype), gradients.v.cast(to: vd.dtype)]
            + (biasInput == nil ? [] : [gradients.bias]) + (sinksInput == nil ? [] : [gradients.sinks])
    }
}

/// Runs `body`; an error of ours then says in which layer it came up.
private func naming<Result>(_ layer: Int?, _ body: () throws -> Result) throws -> Result {
    do { return try body() } catch var error as RingZooError {
        if let layer { error.message += ", in the attention of layer \(layer)" }
        throw error
    }
}
