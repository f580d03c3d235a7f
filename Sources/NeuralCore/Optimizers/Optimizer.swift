import TensorCore

/// Updates a model's parameters in place from their gradients, and keeps a state that goes into checkpoints.
///
/// An update works through the leaves in order and allocates nothing of a parameter's size. Two things are needed for that: the
/// model is the only holder of its weights (a copy is a snapshot, and a shared weight is copied before it is written), and the
/// caller gives its gradient away (`consume gradient`), so that leaves are freed as they are used.
public protocol Optimizer: Sendable {
    /// Updates done so far.
    var step: Int { get }

    /// Does one update.
    /// - Parameters:
    ///   - gradient: of the model's own type, as `valueAndGradient` returns it.
    ///   - rate: the learning rate of this step.
    ///   - gradientScale: what gradients are multiplied by on the way, for clipping and averaging.
    mutating func update<M: Module>(_ model: inout M, gradient: consuming M, rate: Double, gradientScale: Double)

    /// Every tensor of the state with its name in checkpoints: a word, a dot, and the name of the parameter, whose shape it has. They share storage with the optimizer, so let go of them before
    /// the next update.
    var state: [(name: String, tensor: Tensor)] { get }

    /// Takes over the step and the values of a saved state, of which one tensor at a time is in memory.
    /// - Parameters:
    ///   - saved: what there is, by name.
    ///   - read: gives a tensor of it, in that shape and type.
    /// - Throws: `RingZooError` with code `corruptInput` that lists names, shapes or types at fault; then nothing has changed. What `read`
    ///   throws.
    mutating func restore(step: Int, saved: [String: SavedForm], read: (String) throws -> Tensor) throws
}

/// What a saved tensor is, without its values.
public struct SavedForm: Sendable, Hashable {
    public var shape: [Int]
    public var dtype: DType

    public init(_ shape: [Int], _ dtype: DType) { (self.shape, self.dtype) = (shape, dtype) }
}

/// The parameter that a tensor of optimizer state belongs to.
public func parameterName(ofOptimizerState name: String) -> String {
    String(name.drop { $0 != "." }.dropFirst())
}

extension Optimizer {
    /// The same from tensors in memory.
    public mutating func restore(step: Int, state: [String: Tensor]) throws {
        try restore(step: step, saved: state.mapValues { SavedForm($0.shape, $0.dtype) }) { state[$0]! }
    }
}

/// The leaves of a gradient, each of which is handed out once and freed by whoever takes it.
struct GradientLeaves {
    private let names: [String]
    private var tensors: [Tensor?]

    init<M: Module>(_ gradient: consuming M) {
        var names: [String] = []
        var tensors: [Tensor?] = []
        gradient.forEachParameter { name, tensor in
            names.append(name)
            tensors.append(tensor)
        }
        self.names = names
        self.tensors = tensors
    }

    /// The gradient of parameter number `index`, contiguous; traps unless it fits the parameter.
    mutating func take(_ index: Int, _ name: String, for parameter: Tensor) -> Tensor {
        guard index < names.count, names[index] == name, let tensor = tensors[index] else {
            fatalError("gradient: no leaf number \(index) named \(name); is it of another model?")
        }
        if tensor.shape != parameter.shape || tensor.dtype != parameter.dtype {
            shapeFault("gradient of \(name)", "does not fit its parameter", tensor, parameter)
        }
        tensors[index] = nil
        return tensor.contiguous()
    }
}

/// One tensor of optimizer state per parameter, in the order of `visit`.
struct ParameterState: Sendable {
    let names: [String]
    var tensors: [Tensor]

    /// Zeros in the shapes and types of a model's parameters, which must be float32 or float64: updates of half-precision weights
    /// would be rounded away.
    init<M: Module>(for model: M) {
        let parameters = model.parameters
        names = parameters.map { $0.name }
        tensors = parameters.map { name, parameter in
            if parameter.dtype != .float32 && parameter.dtype != .float64 {
                shapeFault("optimizer", "\(name) must be float32 or float64; compute in bfloat16 instead", parameter)
            }
            return .zeros(parameter.shape, parameter.dtype, on: parameter.device, kind: .optimizer)
        }
    }

    func listed(under prefix: String) -> [(name: String, tensor: Tensor)] {
        zip(names, tensors).map { (prefix + $0, $1) }
    }

    /// Finds what is missing or does not fit in a saved state, one line each.
    func faults(in saved: [String: SavedForm], under prefix: String) -> [String] {
        zip(names, tensors).compactMap { name, tensor in
            guard let value = saved[prefix + name] else { return "\(prefix)\(name) is missing" }
            if value.shape == tensor.shape && value.dtype == tensor.dtype { return nil }
            return "\(prefix)\(name) is \(value.dtype)\(value.shape), wanted \(tensor.dtype)\(tensor.shape)"
        }
    }

    /// Copies the values of a saved state that has been checked.
    mutating func load(under prefix: String, _ read: (String) throws -> Tensor) rethrows {
        for index in tensors.indices {
            tensors[index].makeUnique()
            try tensors[index].device.copy(read(prefix + names[index]).detached, into: tensors[index])
        }
    }
}

/// Throws unless a saved state fits these parts of an optimizer and holds nothing else.
func checkSavedState(_ saved: [String: SavedForm], step: Int, _ parts: [(prefix: String, state: ParameterState)]) throws
{
    var faults = parts.flatMap { $0.state.faults(in: saved, under: $0.prefix) }
    let known = Set(parts.flatMap { part in part.state.names.map { part.prefix + $0 } })
    faults += saved.keys.filter { !known.contains($0) }.sorted().map { "\($0) belongs to no parameter" }
    if step < 0 { faults.append("step \(step) is negative") }
    if !faults.isEmpty {
        throw RingZooError(
            .corruptInput, "the saved optimizer state does not fit this model and optimizer", tried: faults)
    }
}
