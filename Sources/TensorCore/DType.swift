/// The element type of a tensor.
public enum DType: String, Sendable, Hashable, CaseIterable, Codable {
    case float32, float64, bfloat16, float16, int32, int64, bool

    /// Bytes of one element in memory and in checkpoints.
    public var byteCount: Int {
        switch self {
        case .float64, .int64: 8
        case .float32, .int32: 4
        case .bfloat16, .float16: 2
        case .bool: 1
        }
    }

    public var isFloat: Bool {
        switch self {
        case .float32, .float64, .bfloat16, .float16: true
        case .int32, .int64, .bool: false
        }
    }

    /// The type in which sums over elements of this type are kept: float64 for float64, float32 for the other floats.
    public var accumulator: DType {
        switch self {
        case .float64: .float64
        case .float32, .bfloat16, .float16: .float32
        case .int32, .int64, .bool: .int64
        }
    }
}

/// The upper half of a float32: 8 exponent bits, 7 mantissa bits. Storage only; arithmetic happens in float32.
public struct BFloat16: Sendable, Hashable {
    public var bitPattern: UInt16

    public init(bitPattern: UInt16) { self.bitPattern = bitPattern }

    /// Rounds to nearest, ties to even; NaN stays NaN.
    public init(_ value: Float) {
        let bits = value.bitPattern
        if value.isNaN {
            bitPattern = UInt16(truncatingIfNeeded: bits >> 16) | 0x40
        } else {
            bitPattern = UInt16(truncatingIfNeeded: (bits &+ 0x7fff &+ ((bits >> 16) & 1)) >> 16)
        }
    }

    /// Exact.
    public var float: Float { Float(bitPattern: UInt32(bitPattern) << 16) }
}
