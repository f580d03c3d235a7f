import Synchronization

/// A tensor but for its values: all that the time of an operation depends on.
public struct TensorForm: Sendable, Hashable {
    public var dtype: DType
    public var shape, strides: [Int]

    public init(_ tensor: Tensor) { (dtype, shape, strides) = (tensor.dtype, tensor.shape, tensor.strides) }

    /// A tensor of this form in memory of its own. Floating-point elements are `value`, all others 0, which is a valid index anywhere.
    public func make(filledWith value: Double, on device: any Device) -> Tensor {
        let extent = zip(shape, strides).reduce(1) { $0 + max(0, $1.0 - 1) * $1.1 }
        let storage = Tensor.full([shape.contains(0) ? 0 : extent], dtype.isFloat ? value : 0, dtype, on: device)
            .storage
        return Tensor(storage: storage, dtype: dtype, shape: shape, strides: strides, offset: 0)
    }
}

/// The operations of a rehearsal, each different one once, so that they can be timed on a device that computes.
public final class OperationLog: Sendable {
    public typealias Part = RehearsalDevice.Part

    public struct Entry: Sendable {
        public let name: String
        public let part: Part
        public let operands: [TensorForm]
        /// How often it was met.
        public fileprivate(set) var count: Int
        /// Floating-point operations and bytes of one.
        public let flops, bytes: Double
        private let operation: @Sendable (inout [Tensor]) throws -> Void

        init(
            _ name: String, _ part: Part, _ operands: [TensorForm], flops: Double, bytes: Double,
            _ operation: @escaping @Sendable (inout [Tensor]) throws -> Void
        ) {
            (self.name, self.part, self.operands, count) = (name, part, operands, 1)
            (self.flops, self.bytes, self.operation) = (flops, bytes, operation)
        }

        /// Does it on tensors of these forms, which are its own: some are written, and some may be gone afterwards.
        public func run(on operands: inout [Tensor]) throws { try operation(&operands) }
    }

    private struct Key: Hashable {
        var name: String
        var operands: [TensorForm]
        var details: [Int]
    }
    private let met = Mutex((places: [Key: Int](), entries: [Entry]()))

    public init() {}

    /// In the order in which they were met first.
    public var entries: [Entry] { met.withLock { $0.entries } }

    public func clear() { met.withLock { $0 = ([:], []) } }

    /// Counts an operation.
    /// - Parameters:
    ///   - details: what its time depends on besides the forms of its operands.
    ///   - operation: does it, given operands of these forms.
    public func add(
        _ name: String, _ part: Part, _ operands: [Tensor], details: [Int] = [], flops: Double = 0, bytes: Double = 0,
        _ operation: @escaping @Sendable (inout [Tensor]) throws -> Void
    ) {
        let key = Key(name: name, operands: operands.map { TensorForm($0) }, details: details)
        met.withLock { met in
            if let place = met.places[key] {
                met.entries[place].count += 1
            } else {
                met.places[key] = met.entries.count
                met.entries.append(Entry(name, part, key.operands, flops: flops, bytes: bytes, operation))
            }
        }
    }
}
