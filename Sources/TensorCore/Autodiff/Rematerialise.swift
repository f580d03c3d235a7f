/// Computes `body(module, x)` without keeping what happens inside; the backward pass computes it again on a nested tape.
///
/// Memory between the passes: `x` and the result, instead of every intermediate value. `body` must be a pure function of its
/// arguments (random numbers are keyed, so dropout is) and is called twice.
/// - Throws: what `body` throws, and `RingZooError` when a captured tensor would silently get no gradient.
public func rematerialise<M: Module>(
    _ module: M, _ x: Tensor, _ body: @escaping @Sendable (M, Tensor) throws -> Tensor
) throws -> Tensor {
    var constant = module
    var inputs: [Tensor] = []
    constant.forEachParameter { _, parameter in
        inputs.append(parameter)
        parameter = parameter.detached
    }
    inputs.append(x)
    if !inputs.contains(where: { $0.isTracked }) { return try body(module, x) }

    let input = x.detached
    let needed = inputs.map { $0.isTracked }
    let saved = constant
    let output = try body(saved, input)
    if output.isTracked {
        throw RingZooError(
            .internalFailure,
            "rematerialise: the body captures a tensor that needs a gradient",
            tried: ["pass it as a parameter of the module or as x, or use .detached if that is meant"])
    }
    return Tensor.record("rematerialise", inputs: inputs, output: output.detached) { gradient in
        let tape = Tape()
        var again = saved
        var leaves: [Tensor] = []
        again.forEachParameter { _, parameter in
            if needed[leaves.count] { parameter = tape.leaf(parameter) }
            leaves.append(parameter)
        }
        let x = needed[leaves.count] ? tape.leaf(input) : input
        leaves.append(x)
        let result = try body(again, x)
        let found = try tape.gradients(of: result, seed: gradient)
        return leaves.map { leaf in leaf.tracked.flatMap { found[$0.index] } }
    }
}
