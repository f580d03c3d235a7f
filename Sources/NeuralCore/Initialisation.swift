import DistributedCore
import TensorCore

/// What a parameter starts as.
public enum InitialValue: Sendable, Hashable {
    case constant(Double)
    /// Normal numbers of mean 0.
    case normal(standardDeviation: Double)
}

extension Module {
    /// Fills weights with normal numbers of mean 0, in place; a nil standard deviation leaves a parameter as it is.
    ///
    /// Numbers depend on the seed, the parameter's name and the element's row and column alone, not on the order of
    /// parameters nor on how many ranks draw them.
    /// - Parameter standardDeviation: called with the name and the shape. By default 0.02 for tensors of two and more axes, and
    ///   nothing for the others: norms start at 1 and biases at 0 by themselves.
    public mutating func initialise(
        seed: UInt64,
        standardDeviation: (_ name: String, _ shape: [Int]) -> Double? = { _, shape in shape.count >= 2 ? 0.02 : nil }
    ) {
        forEachParameter { name, parameter in
            guard let deviation = standardDeviation(name, parameter.shape) else { return }
            parameter.makeUnique()
            parameter.drawNormal(standardDeviation: deviation, seed: seed, name: name)
        }
    }
}

extension Tensor {
    /// A part of a parameter as it starts: the numbers that stand there in the whole, which is never made.
    ///
    /// Memory beyond the part: where it lacks columns, its rows with all of them.
    public static func initial(
        _ value: InitialValue, _ part: ParameterPart, of shape: [Int], _ dtype: DType, name: String, seed: UInt64,
        on device: any Device
    ) -> Tensor {
        switch value {
        case .constant(let number): return .full(part.shape, number, dtype, on: device, kind: .parameters)
        case .normal(let deviation):
            let rows = Tensor.zeros([part.ranges[0].count] + shape.dropFirst(), dtype, on: device, kind: .parameters)
            rows.drawNormal(
                standardDeviation: deviation, seed: seed, name: name, firstRow: part.ranges[0].lowerBound)
            if rows.shape == part.shape { return rows }
            var columns = part
            columns.ranges[0] = 0..<part.ranges[0].count
            return columns.of(rows).copy(kind: .parameters)
        }
    }

    /// The same values in memory of their own.
    public func copy(kind: MemoryKind) -> Tensor {
        let copy = Tensor(uninitialised: shape, dtype, on: device, kind: kind)
        device.copy(detached, into: copy)
        return copy
    }

    /// Overwrites this contiguous parameter with normal numbers keyed by seed, name and place.
    /// - Parameter firstRow: the index of row 0 in the whole parameter, where this tensor is a shard of it.
    public func drawNormal(standardDeviation: Double, seed: UInt64, name: String, firstRow: Int = 0) {
        if !isContiguous { shapeFault("drawNormal", "a contiguous tensor wanted for \(name)", self) }
        if elementCount == 0 { return }
        let key = RandomKey(seed: seed).derived("initialisation").derived(name)
        let rows = rank == 0 ? [0] : (firstRow..<firstRow + shape[0]).map { UInt64($0) }
        let normal = dtype == .float32 ? self : Tensor(uninitialised: shape, .float32, on: device)
        device.random(.normal, key: key.value, rows: rows, into: normal)
        let factor = Tensor.scalar(standardDeviation, .float32, on: device).broadcast(to: shape)
        device.binary(.multiply, normal, factor, into: normal)
        if dtype != .float32 { device.copy(normal, into: self) }
    }
}
