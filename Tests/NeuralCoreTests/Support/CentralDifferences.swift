import TensorCore
import Testing

/// Compares the gradient of `body` at float64 inputs with central differences, element by element, under a fixed random cotangent.
///
/// With a step of 1e-5 both errors of a central difference (step^2 and the rounding of the value / step) are near 1e-10 for
/// functions of unit scale; 1e-7 leaves room for sums, and a wrong term is off by far more.
func expectGradientsMatch(
    _ inputs: [Tensor], tolerance: Double = 1e-7, sourceLocation: SourceLocation = #_sourceLocation,
    _ body: @Sendable ([Tensor]) throws -> Tensor
) throws {
    let device = inputs[0].device
    let probe = try body(inputs)
    let cotangent = Tensor.random(.normal, probe.shape, .float64, key: 99, on: device)
    func loss(_ x: [Tensor]) throws -> Tensor { (try body(x) * cotangent).sum() }
    let (_, gradients) = try valueAndGradient(at: inputs, loss)
    let step = 1e-5
    for (position, input) in inputs.enumerated() {
        let values = input.doubles
        let found = gradients[position].doubles
        #expect(gradients[position].shape == input.shape, sourceLocation: sourceLocation)
        for element in values.indices {
            func value(_ change: Double) throws -> Double {
                var moved = values
                moved[element] += change
                var list = inputs
                list[position] = Tensor(moved, input.shape, on: device)
                return try loss(list).item
            }
            let expected = (try value(step) - value(-step)) / (2 * step)
            if abs(found[element] - expected) > tolerance * max(1, abs(expected)) {
                Issue.record(
                    "input \(position), element \(element): gradient \(found[element]), by differences \(expected)",
                    sourceLocation: sourceLocation)
                return
            }
        }
    }
}

/// The same for every parameter of a module and its input.
func expectGradientsMatch<M: Module>(
    _ module: M, _ x: Tensor, sourceLocation: SourceLocation = #_sourceLocation,
    _ body: @Sendable (M, Tensor) throws -> Tensor
) throws {
    try expectGradientsMatch(
        module.parameters.map { $0.tensor } + [x], sourceLocation: sourceLocation
    ) { inputs in
        var moved = module
        var index = 0
        moved.forEachParameter { _, parameter in
            parameter = inputs[index]
            index += 1
        }
        return try body(moved, inputs[index])
    }
}
