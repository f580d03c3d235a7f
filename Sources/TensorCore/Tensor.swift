/// A strided view of a device's memory, possibly recorded on a tape.
///
/// A value type: operations return new tensors, views share storage, and the only in-place writers (optimizers, accumulation
/// inside a backward pass) first make sure that the storage is not shared. Shape errors trap with both shapes in the message.
public struct Tensor: Sendable {
    public internal(set) var storage: Storage
    public let dtype: DType
    public let shape: [Int]
    /// In elements, one per axis; 0 along a broadcast axis.
    public let strides: [Int]
    /// Elements before the first one.
    public let offset: Int
    /// Where this value stands on a tape, if anywhere.
    var tracked: Tracked?

    init(storage: Storage, dtype: DType, shape: [Int], strides: [Int], offset: Int) {
        self.storage = storage
        self.dtype = dtype
        self.shape = shape
        self.strides = strides
        self.offset = offset
    }

    /// Uninitialised and contiguous.
    public init(uninitialised shape: [Int], _ dtype: DType, on device: any Device, kind: MemoryKind = .working) {
        if shape.contains(where: { $0 < 0 }) { fatalError("Tensor: negative extent in \(shape)") }
        let count = shape.reduce(1, *)
        self.init(
            storage: device.allocate(byteCount: count * dtype.byteCount, kind: kind), dtype: dtype, shape: shape,
            strides: contiguousStrides(shape), offset: 0)
    }

    public var device: any Device { storage.device }
    public var rank: Int { shape.count }
    public var elementCount: Int { shape.reduce(1, *) }
    /// Bytes of the elements, not of the storage behind them.
    public var byteCount: Int { elementCount * dtype.byteCount }
    public var isTracked: Bool { tracked != nil }

    /// The same value off the tape: a constant to whatever is computed from it.
    public var detached: Tensor {
        var copy = self
        copy.tracked = nil
        return copy
    }

    /// True when the elements lie one after another in row-major order.
    public var isContiguous: Bool {
        var expected = 1
        for axis in stride(from: rank - 1, through: 0, by: -1) {
            if shape[axis] != 1 && strides[axis] != expected { return false }
            expected *= shape[axis]
        }
        return true
    }

    /// Where the first element is, on a device with host memory.
    public var address: UnsafeMutableRawPointer { storage.address + offset * dtype.byteCount }

    /// Whether nothing else holds this tensor's memory and its elements lie side by side, so that it may be written in place.
    public mutating func isUnique() -> Bool { isKnownUniquelyReferenced(&storage) && isContiguous }

    /// Gives this tensor storage of its own if another tensor shares it, so that it can be written in place.
    ///
    /// Needed before every in-place update: a copy of a model is a snapshot.
    public mutating func makeUnique() {
        if isUnique() { return }
        let copy = Tensor(uninitialised: shape, dtype, on: device, kind: storage.kind)
        device.copy(detached, into: copy)
        self = copy
    }
}

/// Row-major strides of a shape.
func contiguousStrides(_ shape: [Int]) -> [Int] {
    var strides = [Int](repeating: 1, count: shape.count)
    var running = 1
    for axis in stride(from: shape.count - 1, through: 0, by: -1) {
        strides[axis] = running
        running *= shape[axis]
    }
    return strides
}

/// A Swift type whose values a tensor can hold.
public protocol TensorScalar: BitwiseCopyable, Sendable {
    static var dtype: DType { get }
}

extension Float: TensorScalar { public static var dtype: DType { .float32 } }
extension Double: TensorScalar { public static var dtype: DType { .float64 } }
extension Int32: TensorScalar { public static var dtype: DType { .int32 } }
extension Int64: TensorScalar { public static var dtype: DType { .int64 } }
extension Bool: TensorScalar { public static var dtype: DType { .bool } }
extension BFloat16: TensorScalar { public static var dtype: DType { .bfloat16 } }

// MARK: Creation

extension Tensor {
    /// Copies `values`, row-major.
    public init<Scalar: TensorScalar>(
        _ values: [Scalar], _ shape: [Int]? = nil, on device: any Device, kind: MemoryKind = .working
    ) {
        let shape = shape ?? [values.count]
        if shape.reduce(1, *) != values.count {
            fatalError("Tensor: \(values.count) values do not fill shape \(shape)")
        }
        self.init(uninitialised: shape, Scalar.dtype, on: device, kind: kind)
        values.withUnsafeBytes { device.write($0, into: self) }
    }

    /// Copies contiguous bytes of the given type.
    public init(
        bytes: UnsafeRawBufferPointer, _ shape: [Int], _ dtype: DType, on device: any Device,
        kind: MemoryKind = .working
    ) {
        self.init(uninitialised: shape, dtype, on: device, kind: kind)
        if bytes.count != byteCount { fatalError("Tensor: \(bytes.count) bytes do not fill \(dtype)\(shape)") }
        device.write(bytes, into: self)
    }

    public static func full(
        _ shape: [Int], _ value: Double, _ dtype: DType = .float32, on device: any Device, kind: MemoryKind = .working
    ) -> Tensor {
        let out = Tensor(uninitialised: shape, dtype, on: device, kind: kind)
        device.fill(out, with: value)
        return out
    }

    public static func zeros(
        _ shape: [Int], _ dtype: DType = .float32, on device: any Device, kind: MemoryKind = .working
    ) -> Tensor { full(shape, 0, dtype, on: device, kind: kind) }

    public static func ones(
        _ shape: [Int], _ dtype: DType = .float32, on device: any Device, kind: MemoryKind = .working
    ) -> Tensor { full(shape, 1, dtype, on: device, kind: kind) }

    /// A tensor without axes.
    public static func scalar(_ value: Double, _ dtype: DType = .float32, on device: any Device) -> Tensor {
        full([], value, dtype, on: device)
    }

    /// Random numbers that depend on the key and the element's place alone, float32 (converted to `dtype`).
    ///
    /// `rows` names the rows of the last axis by global identity (a token's position, say), so that a rank that holds some of the
    /// rows draws the numbers that one rank holding all of them would.
    public static func random(
        _ distribution: RandomDistribution, _ shape: [Int], _ dtype: DType = .float32, key: UInt64,
        rows: [UInt64]? = nil,
        on device: any Device, kind: MemoryKind = .working
    ) -> Tensor {
        let out = Tensor(uninitialised: shape, .float32, on: device, kind: kind)
        let names = rows ?? [0]
        if out.elementCount == 0 { return out.cast(to: dtype) }
        if names.isEmpty || out.elementCount % names.count != 0 {
            fatalError("random: \(names.count) rows do not divide shape \(shape)")
        }
        device.random(distribution, key: key, rows: names, into: out)
        return out.cast(to: dtype)
    }
}

// MARK: Reading on the host

extension Tensor {
    /// The values, row-major. The element type must be the tensor's.
    public func values<Scalar: TensorScalar>(_ type: Scalar.Type = Scalar.self) -> [Scalar] {
        if Scalar.dtype != dtype { fatalError("values: a \(dtype) tensor was read as \(Scalar.dtype)") }
        let x = detached.contiguous()
        return [Scalar](unsafeUninitializedCapacity: x.elementCount) { buffer, count in
            device.read(x, into: UnsafeMutableRawBufferPointer(buffer))
            count = x.elementCount
        }
    }

    /// The values of any numeric type, as float64.
    public var doubles: [Double] { detached.cast(to: .float64).values(Double.self) }

    /// The value of a tensor with one element.
    public var item: Double {
        if elementCount != 1 { shapeFault("item", "one element wanted", self) }
        return doubles[0]
    }

    /// Hands out the contiguous bytes on the host (a copy where the tensor is strided or the device has no host memory).
    public func withBytes<R>(_ body: (UnsafeRawBufferPointer) throws -> R) rethrows -> R {
        let x = detached.contiguous()
        if device.hasHostMemory {
            return try withExtendedLifetime(x) {
                try body(UnsafeRawBufferPointer(start: x.address, count: x.byteCount))
            }
        }
        let bytes = UnsafeMutableRawBufferPointer.allocate(byteCount: x.byteCount, alignment: 64)
        defer { bytes.deallocate() }
        device.read(x, into: bytes)
        return try body(UnsafeRawBufferPointer(bytes))
    }
}

extension Tensor: CustomStringConvertible {
    public var description: String {
        let shown = detached.flattened().prefix(8).doubles.map { String($0) }.joined(separator: ", ")
        return "\(dtype)\(shape) [\(shown)\(elementCount > 8 ? ", ..." : "")]"
    }
}
