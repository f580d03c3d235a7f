import TensorCore

/// Stochastic gradient descent with momentum: u = momentum u + (g + weightDecay w), w -= rate u.
///
/// State: one tensor per parameter, `momentum.NAME`; none when the momentum is 0. Weight decay applies to tensors of two and more
/// axes only. Source: Sutskever et al. 2013, in the form in which the rate multiplies the buffer.
public struct SGD: Optimizer {
    public let momentum: Double
    public var weightDecay: Double
    public private(set) var step = 0
    private var buffer: ParameterState?

    /// State of zeros; half-precision parameters trap.
    public init<M: Module>(for model: M, momentum: Double = 0.9, weightDecay: Double = 0) {
        self.momentum = momentum
        self.weightDecay = weightDecay
        buffer = momentum == 0 ? nil : ParameterState(for: model)
    }

    public mutating func update<M: Module>(
        _ model: inout M, gradient: consuming M, rate: Double, gradientScale: Double = 1
    ) {
        var leaves = GradientLeaves(gradient)
        step += 1
        var index = 0
        model.forEachParameter { name, weight in
            let g = leaves.take(index, name, for: weight)
            weight.makeUnique()
            buffer?.tensors[index].makeUnique()
            weight.device.sgd(
                rate: rate, momentum: momentum, decay: weight.rank >= 2 ? weightDecay : 0,
                gradientScale: gradientScale, weight: weight, gradient: g, buffer: buffer?.tensors[index])
            index += 1
        }
    }

    public var state: [(name: String, tensor: Tensor)] { buffer?.listed(under: "momentum.") ?? [] }

    public mutating func restore(
        step: Int, saved: [String: SavedForm], read: (String) throws -> Tensor
    ) throws {
        try checkSavedState(saved, step: step, buffer.map { [("momentum.", $0)] } ?? [])
        try buffer?.load(under: "momentum.", read)
        self.step = step
    }
}
