// Letters: N rows (all leading axes together), I inputs, O outputs, C rows of a chunk.

import TensorCore

/// Computes `body(module, x)` one chunk of tokens at a time, for a body that treats every token alone: [..., I] -> [..., O].
///
/// What `body` computes inside exists for one chunk only, in both passes: the backward pass computes each chunk again on a tape
/// of its own and adds the weights' gradients into one buffer each, so that there are never more than the sums and those of one
/// chunk. Kept between the passes: `x`. Where a single chunk holds everything, `body` is called directly and nothing is
/// computed twice.
///
/// This is the blockwise feed-forward of Liu and Abbeel 2023 (arXiv 2305.19370). Results agree with the unchunked form up to
/// the rounding of the products. `body` must be a pure function of its arguments; dropout inside it would not know its tokens.
/// - Parameter bytesPerToken: the widest intermediate value of one token, from which `.auto` chooses.
/// - Throws: what `body` throws, and `RingZooError` when a captured tensor would silently get no gradient.
public func blockwise<M: Module>(
    _ module: M, _ x: Tensor, chunk: ChunkSize, bytesPerToken: Int,
    _ body: @escaping @Sendable (M, Tensor) throws -> Tensor
) throws -> Tensor {
    guard let inputs = x.shape.last else { shapeFault("blockwise", "at least one axis wanted", x) }
    let count = x.shape.dropLast().reduce(1, *)
    let step = chunk.rows(of: count, bytesPerRow: bytesPerToken)
    if step >= count { return try body(module, x) }

    let x_NI = x.detached.reshaped([count, inputs])
    let ranges = stride(from: 0, to: count, by: step).map { $0..<min(count, $0 + step) }
    var constant = module
    var parameters: [Tensor] = []
    constant.forEachParameter { _, parameter in
        parameters.append(parameter)
        parameter = parameter.detached
    }
    let saved = constant

    var result: Tensor?
    for range in ranges {
        let out_CO = try body(saved, x_NI.slice(axis: 0, range))
        if out_CO.isTracked {
            throw RingZooError(
                .internalFailure,
                "blockwise: the body uses a tensor that needs a gradient but is not one of its arguments",
                tried: ["pass it as a parameter of the module or as x, or use .detached if that is meant"])
        }
        let out_NO =
            result ?? Tensor(uninitialised: [count, out_CO.shape[1]], out_CO.dtype, on: out_CO.device)
        result = out_NO
        out_NO.device.copy(out_CO, into: out_NO.slice(axis: 0, range))
    }
    let out_NO = result!

    let needed = parameters.map { $0.isTracked }
    let (needsX, shape) = (x.isTracked, x.shape)
    return Tensor.record(
        "blockwise", inputs: parameters + [x], output: out_NO.reshaped(shape.dropLast() + [out_NO.shape[1]])
    ) { gradient in
        let g_NO = gradient.reshaped([count, gradient.shape.last!])
        let dx_NI = needsX ? Tensor(uninitialised: [count, inputs], x_NI.dtype, on: x_NI.device) : nil
        let sums = zip(saved.parameters, needed).map { parameter, needed -> Tensor? in
            let tensor = parameter.tensor
            return needed ? .zeros(tensor.shape, tensor.dtype, on: tensor.device, kind: .gradients) : nil
        }
        for range in ranges {
            try pullBack(
                saved, x_NI.slice(axis: 0, range), g_NO.slice(axis: 0, range), body, into: sums,
                dx_CI: dx_NI?.slice(axis: 0, range))
        }
        return sums + [dx_NI?.reshaped(shape)]
    }
}

/// The backward pass of one chunk, on a tape of its own: adds to the sums (nil where a parameter needs none) and writes dx.
private func pullBack<M: Module>(
    _ module: M, _ x_CI: Tensor, _ g_CO: Tensor, _ body: (M, Tensor) throws -> Tensor, into sums: [Tensor?],
    dx_CI: Tensor?
) throws {
    let wanted = zip(module.parameters, sums).compactMap { $1 == nil ? nil : $0.tensor } + (dx_CI == nil ? [] : [x_CI])
    let (_, found) = try valueAndGradient(at: wanted) { leaves in
        var (next, index) = (0, 0)
        var tracked = module
        tracked.forEachParameter { _, parameter in
            if sums[index] != nil {
                parameter = leaves[next]
                next += 1
            }
            index += 1
        }
        let out_CO = try body(tracked, dx_CI == nil ? x_CI : leaves[next])
        // A scalar whose gradient with respect to the output is the one that has arrived.
        let nothing = Tensor.zeros([], g_CO.dtype, on: g_CO.device)
        return Tensor.record("seed", inputs: [out_CO], output: nothing) { _ in [g_CO] }
    }
    for (sum, gradient) in zip(sums.compactMap { $0 }, found) {
        sum.device.binary(.add, sum, gradient, into: sum)
    }
    if let dx_CI { dx_CI.device.copy(found[found.count - 1], into: dx_CI) }
}
