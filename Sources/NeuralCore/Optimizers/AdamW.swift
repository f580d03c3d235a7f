import TensorCore

/// Adam with decoupled weight decay (Loshchilov and Hutter 2019, algorithm 2).
///
/// State: two tensors per parameter in the parameter's type, m and v, named `m.NAME` and `v.NAME`. Weight decay applies to tensors
/// of two and more axes only: norms and biases are not pulled to zero.
public struct AdamW: Optimizer {
    /// The numbers that do not change from step to step.
    public struct Settings: Sendable, Hashable {
        public var beta1 = 0.9
        public var beta2 = 0.95
        public var epsilon = 1e-8
        public var weightDecay = 0.1

        public init() {}
    }

    public var settings: Settings
    public private(set) var step = 0
    /// Elements of leaves that are updated together: enough that small ones do not leave threads without work, few enough that gradients
    /// are freed as the update goes.
    private static let sweep = 1 << 20
    private var m: ParameterState
    private var v: ParameterState

    /// State of zeros; half-precision parameters trap.
    public init<M: Module>(for model: M, _ settings: Settings = Settings()) {
        self.settings = settings
        m = ParameterState(for: model)
        v = ParameterState(for: model)
    }

    public mutating func update<M: Module>(
        _ model: inout M, gradient: consuming M, rate: Double, gradientScale: Double = 1
    ) {
        var leaves = GradientLeaves(gradient)
        step += 1
        let numbers = AdamWStep(
            rate: rate, beta1: settings.beta1, beta2: settings.beta2, epsilon: settings.epsilon,
            gradientScale: gradientScale, step: step)
        var batch: [AdamWLeaf] = []
        var elements = 0
        var index = 0
        model.forEachParameter { name, weight in
            let g = leaves.take(index, name, for: weight)
            weight.makeUnique()
            m.tensors[index].makeUnique()
            v.tensors[index].makeUnique()
            batch.append(
                AdamWLeaf(
                    weight: weight, gradient: g, m: m.tensors[index], v: v.tensors[index],
                    weightDecay: weight.rank >= 2 ? settings.weightDecay : 0))
            elements += weight.elementCount
            index += 1
            if elements >= Self.sweep || index == m.tensors.count {
                weight.device.adamW(numbers, batch)
                batch = []
                elements = 0
            }
        }
    }

    public var state: [(name: String, tensor: Tensor)] { m.listed(under: "m.") + v.listed(under: "v.") }

    public mutating func restore(
        step: Int, saved: [String: SavedForm], read: (String) throws -> Tensor
    ) throws {
        try checkSavedState(saved, step: step, [("m.", m), ("v.", v)])
        try m.load(under: "m.", read)
        try v.load(under: "v.", read)
        self.step = step
    }
}
