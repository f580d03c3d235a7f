/// Computes `body(x...)` and its gradient with respect to each of `tensors`.
///
/// The result of `body` must have one element. A tensor that does not influence it has a gradient of zeros.
/// - Throws: what `body` or a pullback throws, a device's failure, or an operation without a derivative having been used.
public func valueAndGradient(
    at tensors: [Tensor], _ body: ([Tensor]) throws -> Tensor
) throws -> (value: Tensor, gradients: [Tensor]) {
    let tape = Tape()
    let leaves = tensors.map { tape.leaf($0.detached) }
    let value = try body(leaves)
    if value.elementCount != 1 { shapeFault("valueAndGradient", "the result must have one element", value) }
    let seed = Tensor.full(value.shape, 1, value.dtype, on: value.device)
    let found = try tape.gradients(of: value, seed: seed)
    try value.device.ledger.checkFailure()
    let gradients = leaves.map { found[$0.tracked!.index] ?? .zeros($0.shape, $0.dtype, on: $0.device) }
    return (value.detached, gradients)
}

/// Computes `body(model)` and its gradient with respect to every parameter, as a value of the model's own type.
///
/// Gradients are contiguous, share no storage, and are counted as `.gradients` in the device's ledger.
public func valueAndGradient<M: Module>(
    at model: M, _ body: (M) throws -> Tensor
) throws -> (value: Tensor, gradient: M) {
    let tape = Tape()
    var tracked = model
    var leaves: [Tensor] = []
    tracked.forEachParameter { _, parameter in
        parameter = tape.leaf(parameter.detached)
        leaves.append(parameter)
    }
    let value = try body(tracked)
    if value.elementCount != 1 { shapeFault("valueAndGradient", "the result must have one element", value) }
    let seed = Tensor.full(value.shape, 1, value.dtype, on: value.device)
    var found = try tape.gradients(of: value, seed: seed, parameters: leaves.count)
    try value.device.ledger.checkFailure()
    var next = 0
    tracked.forEachParameter { _, parameter in
        let leaf = leaves[next]
        next += 1
        // Removed from the dictionary, so that the gradient is uniquely referenced and may be consumed in place. One that
        // shares its storage, repeats a number or is a window into something larger gets storage of its own.
        if var gradient = found.removeValue(forKey: leaf.tracked!.index) {
            gradient.makeUnique()
            if gradient.storage.byteCount != gradient.byteCount {
                let copy = Tensor(uninitialised: gradient.shape, gradient.dtype, on: gradient.device)
                copy.device.copy(gradient, into: copy)
                gradient = copy
            }
            parameter = gradient
        } else {
            parameter = .zeros(leaf.shape, leaf.dtype, on: leaf.device)
        }
        parameter.storage.reclassify(as: .gradients)
    }
    return (value.detached, tracked)
}
