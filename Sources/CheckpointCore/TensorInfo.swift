import TensorCore

/// The name, shape and element type of a stored tensor; its bytes are row-major, little-endian and without gaps.
public struct TensorInfo: Sendable, Hashable {
    /// The most axes a stored tensor may have.
    public static let maximumRank = 8

    public var name: String
    /// Extent of each axis; empty for a scalar, and any extent may be 0.
    public var shape: [Int]
    public var dtype: DType

    public init(name: String, shape: [Int], dtype: DType) {
        self.name = name
        self.shape = shape
        self.dtype = dtype
    }

    /// Bytes of all elements; traps where `byteCount(shape:dtype:)` gives nil.
    public var byteCount: Int {
        guard let count = Self.byteCount(shape: shape, dtype: dtype) else {
            fatalError("TensorInfo.byteCount: tensor \(name) has the impossible shape \(shape)")
        }
        return count
    }

    /// Bytes of a tensor of this shape; nil for more than 8 axes, a negative extent, or a product that overflows.
    public static func byteCount(shape: [Int], dtype: DType) -> Int? {
        guard shape.count <= maximumRank, shape.allSatisfy({ $0 >= 0 }) else { return nil }
        // An extent of 0 must not hide an overflow of the others, so the product is taken over the rest as well.
        var product = dtype.byteCount
        for extent in shape where extent > 0 {
            let (next, overflow) = product.multipliedReportingOverflow(by: extent)
            if overflow { return nil }
            product = next
        }
        return shape.contains(0) ? 0 : product
    }
}

/// A tensor to be written: what it is, and a closure that hands out its bytes.
public struct TensorSource: Sendable {
    public typealias Sink = (UnsafeRawBufferPointer) throws -> Void

    public let info: TensorInfo
    /// Called once; passes consecutive pieces to its argument that together are `info.byteCount` bytes. Only the
    /// piece of the moment needs to be in memory.
    public let stream: @Sendable (Sink) throws -> Void

    public init(_ info: TensorInfo, stream: @escaping @Sendable (Sink) throws -> Void) {
        self.info = info
        self.stream = stream
    }

    /// A tensor whose bytes are at hand.
    public init(_ info: TensorInfo, bytes: [UInt8]) {
        self.init(info) { sink in try bytes.withUnsafeBytes { try sink($0) } }
    }
}

/// A set of stored tensors that can be read by name.
public protocol TensorCollection: Sendable {
    /// What is there, in the order of the file.
    var tensors: [TensorInfo] { get }

    /// The bytes of one tensor, verified as far as the format allows. Errors: `missingInput` for an unknown name,
    /// `corruptInput` for damage or a tensor that is not allowed.
    func bytes(of name: String) throws -> TensorBytes
}

extension TensorCollection {
    /// Every tensor as something to write again, possibly under another name.
    public func sources(renaming rename: (String) -> String = { $0 }) -> [TensorSource] {
        tensors.map { info in
            TensorSource(TensorInfo(name: rename(info.name), shape: info.shape, dtype: info.dtype)) { sink in
                try self.bytes(of: info.name).withUnsafeBytes { try sink($0) }
            }
        }
    }
}

/// The bytes of a stored tensor: a part of a mapped file where possible (nothing is copied), else memory of its own.
///
/// Keeping this value, or its `owner`, keeps the memory. It is read-only; writing to it is a fault.
public struct TensorBytes: Sendable {
    /// Keeps the memory alive.
    public let owner: any AnyObject & Sendable
    private let start: Int
    public let count: Int
    /// True when the bytes are pages of the file itself.
    public let isMapped: Bool

    init(owner: any AnyObject & Sendable, bytes: UnsafeRawBufferPointer, isMapped: Bool) {
        self.owner = owner
        // Kept as a number, because a raw pointer is not Sendable; `owner` guards the memory.
        start = Int(bitPattern: bytes.baseAddress)
        count = bytes.count
        self.isMapped = isMapped
    }

    /// Calls `body` with the bytes, which are valid until it returns.
    public func withUnsafeBytes<R>(_ body: (UnsafeRawBufferPointer) throws -> R) rethrows -> R {
        try withExtendedLifetime(owner) {
            try body(UnsafeRawBufferPointer(start: UnsafeRawPointer(bitPattern: start), count: count))
        }
    }

    /// True when a typed pointer may look at the bytes in place. Always so in checkpoints; a safetensors file of
    /// other origin may hold a tensor at an odd place, and that one must be copied.
    public func isAligned(for dtype: DType) -> Bool { start % dtype.byteCount == 0 }
}

/// Memory that a reader filled itself.
final class OwnedBytes: @unchecked Sendable {
    // Unchecked: the memory is written before the object is handed out and only read afterwards.
    let memory: UnsafeMutableRawBufferPointer

    init(count: Int) { memory = .allocate(byteCount: count, alignment: 64) }

    deinit { memory.deallocate() }
}

/// Refuses bytes of a bool tensor that are neither 0 nor 1: a Swift Bool must never hold anything else.
func checkBooleans(_ bytes: UnsafeRawBufferPointer, _ info: TensorInfo, in path: String) throws {
    if info.dtype == .bool, let place = bytes.firstIndex(where: { $0 > 1 }) {
        throw RingZooError(
            .corruptInput, "\(path): tensor \(info.name): element \(place) is the byte \(bytes[place]), not a bool")
    }
}
