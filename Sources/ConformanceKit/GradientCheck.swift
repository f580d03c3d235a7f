import TensorCore

/// Compares the gradient that `valueAndGradient` finds with central differences, element by element, in float64.
///
/// With the default tolerance and step this is as strict as PyTorch's `gradcheck`. Two backward passes are also held to the same
/// bits. Cost: two evaluations of the function per input element.
public struct GradientCheck: Sendable {
    /// What an element of the inputs is moved by, either way.
    public var step: Double
    public var tolerance: Tolerance

    public init(step: Double = 1e-6, tolerance: Tolerance = .gradient) {
        self.step = step
        self.tolerance = tolerance
    }

    /// One element of one input: what the tape found and what the differences say.
    public struct Element: Sendable, CustomStringConvertible {
        /// Which of the inputs.
        public let tensor: Int
        /// The element's place along every axis of that input.
        public let index: [Int]
        public let found, expected: Double

        public var description: String {
            "input \(tensor) at \(index): gradient \(found), central difference \(expected)"
        }
    }

    public struct Report: Sendable, CustomStringConvertible {
        /// The element furthest from its central difference, in units of what is tolerated; nil without elements.
        public internal(set) var worst: Element?
        /// Elements compared, and those outside the tolerance.
        public internal(set) var count = 0
        public internal(set) var outside = 0
        /// What is wrong apart from values: a gradient's shape or type, or two backward passes that differ.
        public internal(set) var faults: [String] = []

        public var holds: Bool { outside == 0 && faults.isEmpty }

        public var description: String {
            let summary = "\(outside) of \(count) gradient elements are wrong"
            return ([summary] + faults + (worst.map { ["worst: \($0)"] } ?? [])).joined(separator: "; ")
        }
    }

    /// Checks `body` at `tensors`, which must be float64.
    ///
    /// A result with several elements is contracted with fixed weights of both signs, so that every element of the Jacobian
    /// counts. `body` must be a pure function.
    /// - Throws: what `body` throws, and `RingZooError` for inputs or results that are not float64.
    public func callAsFunction(at tensors: [Tensor], _ body: ([Tensor]) throws -> Tensor) throws -> Report {
        for (i, tensor) in tensors.enumerated() where tensor.dtype != .float64 {
            throw RingZooError(
                .usage, "GradientCheck: input \(i) is \(tensor.dtype); differences need float64",
                tried: ["cast the input, or cast inside the function that is checked"])
        }
        func scalar(_ inputs: [Tensor]) throws -> Tensor {
            let out = try body(inputs)
            if out.dtype != .float64 {
                throw RingZooError(.usage, "GradientCheck: the result is \(out.dtype); differences need float64")
            }
            // No two weights are equal, their signs alternate and their sum is not special.
            let weights = (0..<out.elementCount).map { i -> Double in
                let spread = Double((i * 7919 + 13) % 1009) / 1009
                return i % 2 == 0 ? 0.2 + spread : -0.2 - spread
            }
            return (out * Tensor(weights, out.shape, on: out.device)).sum()
        }

        var report = Report()
        let gradients = try valueAndGradient(at: tensors, scalar).gradients
        let again = try valueAndGradient(at: tensors, scalar).gradients
        var worst = -1.0
        for (i, tensor) in tensors.enumerated() {
            let gradient = gradients[i]
            if gradient.shape != tensor.shape || gradient.dtype != tensor.dtype {
                report.faults.append(
                    "input \(i) is \(tensor.dtype)\(tensor.shape), its gradient \(gradient.dtype)\(gradient.shape)")
                continue
            }
            let found = gradient.doubles
            if !zip(found, again[i].doubles).allSatisfy({ $0.bitPattern == $1.bitPattern }) {
                report.faults.append("two backward passes differ in the gradient of input \(i)")
            }
            let values = tensor.doubles
            for element in values.indices {
                func evaluate(_ value: Double) throws -> Double {
                    var moved = values
                    moved[element] = value
                    var inputs = tensors
                    inputs[i] = Tensor(moved, tensor.shape, on: tensor.device)
                    return try scalar(inputs).item
                }
                let (above, below) = (values[element] + step, values[element] - step)
                let expected = (try evaluate(above) - evaluate(below)) / (above - below)
                report.count += 1
                if !tolerance.allows(found[element], expected) { report.outside += 1 }
                let distance =
                    abs(found[element] - expected) / (tolerance.absolute + tolerance.relative * abs(expected))
                let rank = distance.isNaN ? Double.infinity : distance
                if rank > worst {
                    worst = rank
                    report.worst = Element(
                        tensor: i, index: place(element, in: tensor.shape), found: found[element], expected: expected)
                }
            }
        }
        return report
    }
}

/// The index along every axis of the element with this row-major number.
private func place(_ element: Int, in shape: [Int]) -> [Int] {
    var remaining = element
    var index = [Int](repeating: 0, count: shape.count)
    for axis in shape.indices.reversed() {
        index[axis] = remaining % shape[axis]
        remaining /= shape[axis]
    }
    return index
}
