import Foundation
import TensorCore
import Testing

/// Rounding to nearest, ties to even, to a format of `significant` bits whose smallest normal exponent is `lowest`; written from
/// the definition (IEEE 754-2019, section 4.3.1), with no bit of the code under test.
private func rounded(_ x: Double, significant: Int, lowest: Int, largest: Double) -> Double {
    if x.isNaN || x.isInfinite || x == 0 { return x }
    let unit = Double(sign: .plus, exponent: max(Int(x.exponent), lowest) - (significant - 1), significand: 1)
    let y = (x / unit).rounded(.toNearestOrEven) * unit
    return abs(y) > largest ? Double(sign: x.sign, exponent: 0, significand: 1) * .infinity : y
}

/// The same for an integer too long for a float64.
private func rounded(_ x: Int64, significant: Int) -> Double {
    let magnitude = x.magnitude
    let length = UInt64.bitWidth - magnitude.leadingZeroBitCount
    if length <= significant { return Double(x) }
    let shift = UInt64(length - significant)
    let rest = magnitude & ((1 << shift) - 1)
    let half: UInt64 = 1 << (shift - 1)
    var kept = magnitude >> shift
    if rest > half || (rest == half && kept & 1 == 1) { kept += 1 }
    return (x < 0 ? -1 : 1) * Double(kept) * Double(sign: .plus, exponent: Int(shift), significand: 1)
}

@Suite struct ConversionTests {
    let device = CPUDevice(threads: 1)

    /// An element as the host sees it: floats by value, integers and truth values exactly.
    enum Element: Equatable, CustomStringConvertible {
        case float(Double), integer(Int64)
        var description: String {
            switch self {
            case .float(let x): "\(x)"
            case .integer(let x): "\(x)"
            }
        }
        static func == (a: Element, b: Element) -> Bool {
            switch (a, b) {
            case (.float(let x), .float(let y)): x.isNaN ? y.isNaN : x == y && x.sign == y.sign
            case (.integer(let x), .integer(let y)): x == y
            default: false
            }
        }
    }

    static func elements(_ x: Tensor) -> [Element] {
        x.withBytes { raw in
            switch x.dtype {
            case .float32: raw.bindMemory(to: Float.self).map { .float(Double($0)) }
            case .float64: raw.bindMemory(to: Double.self).map { .float($0) }
            case .bfloat16:
                raw.bindMemory(to: UInt16.self).map { .float(Double(Float(bitPattern: UInt32($0) << 16))) }
            case .float16: raw.bindMemory(to: UInt16.self).map { .float(halfValue($0)) }
            case .int32: raw.bindMemory(to: Int32.self).map { .integer(Int64($0)) }
            case .int64: raw.bindMemory(to: Int64.self).map { .integer($0) }
            case .bool: raw.map { .integer(Int64($0)) }
            }
        }
    }

    /// IEEE 754 binary16, decoded from its fields.
    static func halfValue(_ bits: UInt16) -> Double {
        let (exponent, fraction) = (Int(bits >> 10 & 31), Double(bits & 1023))
        let magnitude: Double =
            switch exponent {
            case 0: fraction * 0x1p-24
            case 31: fraction == 0 ? .infinity : .nan
            default: (1024 + fraction) * Double(sign: .plus, exponent: exponent - 25, significand: 1)
            }
        return bits >> 15 == 1 ? -magnitude : magnitude
    }

    func tensor<T: BitwiseCopyable>(_ values: [T], _ dtype: DType) -> Tensor {
        values.withUnsafeBytes { Tensor(bytes: $0, [values.count], dtype, on: device) }
    }

    /// Values at which conversions go wrong, in every source type.
    func edges(_ dtype: DType) -> Tensor {
        let magnitudes: [Double] = [
            0, 1, 0.5, 1.5, 2.5, 0.999_999_9, 3.75, 127, 128, 255, 256, 257, 258, 259, 511, 2047, 2048, 2049, 2051,
            65504,
            65519, 65519.999, 65520, 65536, 1 + 0x1p-8, 1 + 0x1p-8 + 0x1p-20, 1 + 0x1p-8 + 0x1p-40, 1 + 3 * 0x1p-8,
            1 + 0x1p-11, 1 + 0x1p-11 + 0x1p-23, 1 + 0x1p-11 + 0x1p-40, 1 + 3 * 0x1p-11, 1 + 0x1p-24,
            1 + 0x1p-24 + 0x1p-50,
            1 + 3 * 0x1p-24, 0x1p-14, 0x1p-15, 0x1p-24, 0x1p-25, 0x1.000001p-25, 0x1.8p-24, 0x1.ffcp-15, 0x1.ffep-15,
            0x1p-126, 0x1p-127, 0x1p-133, 0x1p-134, 0x1.000001p-134, 0x1.8p-133, 0x1.4p-132, 0x1p-149, 0x1p-150,
            0x1.0000001p-150, 0x1p-1074, 0x1.fep127, 0x1.fefffep127, 0x1.ffp127, 0x1.fffffep127, 0x1.ffffffp127, 1e300,
            2_147_483_646.5, 2_147_483_647, 2_147_483_648, 4_294_967_296, 0x1p62, 0x1.fffffffffffffp62, 0x1p63, 0x1p64,
            0x1p24 + 1, 0x1p53 - 1, .infinity, .nan,
        ]
        let all = magnitudes + magnitudes.map { -$0 }
        let integers: [Int64] = [
            0, 1, 127, 128, 255, 256, 257, 259, 2049, 2051, 65504, 65519, 65520, 1 << 24 + 1, (1 << 24) + 3,
            (1 << 30) + (1 << 22),
            (1 << 30) + (1 << 22) + 1, (1 << 30) + (3 << 22), (1 << 31) - 1, 1 << 31, (1 << 32) + 5, (1 << 53) + 1,
            (1 << 54) + 2, (1 << 60) + (1 << 36), (1 << 60) + (1 << 36) + 1, (1 << 60) + (3 << 36),
            (1 << 60) + (1 << 52),
            (1 << 60) + (1 << 52) + 1, (1 << 60) + (1 << 52) - 1, .max, .max - 1,
        ]
        let whole = integers + integers.map { -$0 } + [.min]
        switch dtype {
        case .float64: return tensor(all, dtype)
        case .float32: return tensor(all.map { Float($0) }, dtype)
        // Every pattern there is.
        case .bfloat16, .float16: return tensor(Array(UInt16.min...UInt16.max), dtype)
        case .int64: return tensor(whole, dtype)
        case .int32: return tensor(whole.map { Int32(truncatingIfNeeded: $0) }, dtype)
        case .bool: return tensor([0, 1] as [UInt8], dtype)
        }
    }

    static func expected(_ x: Element, in dtype: DType) -> Element {
        switch (x, dtype) {
        case (.float(let v), .float64): .float(v)
        case (.float(let v), .float32): .float(rounded(v, significant: 24, lowest: -126, largest: 0x1.fffffep127))
        case (.float(let v), .bfloat16): .float(rounded(v, significant: 8, lowest: -126, largest: 0x1.fep127))
        case (.float(let v), .float16): .float(rounded(v, significant: 11, lowest: -14, largest: 65504))
        case (.float(let v), .int32): .integer(v.isNaN ? 0 : Int64(Swift.min(Swift.max(v, -0x1p31), 0x1p31 - 1)))
        case (.float(let v), .int64):
            .integer(v.isNaN ? 0 : v >= 0x1p63 ? .max : v <= -0x1p63 ? .min : Int64(v))
        case (.float(let v), .bool): .integer(v == 0 ? 0 : 1)
        case (.integer(let v), .float64): .float(rounded(v, significant: 53))
        case (.integer(let v), .float32): .float(rounded(v, significant: 24))
        case (.integer(let v), .bfloat16): .float(rounded(v, significant: 8))
        case (.integer(let v), .float16):
            .float(
                abs(rounded(v, significant: 11)) > 65504
                    ? (v < 0 ? -.infinity : .infinity) : rounded(v, significant: 11))
        case (.integer(let v), .int32): .integer(Int64(Int32(truncatingIfNeeded: v)))
        case (.integer(let v), .int64): .integer(v)
        case (.integer(let v), .bool): .integer(v == 0 ? 0 : 1)
        }
    }

    @Test(arguments: DType.allCases, DType.allCases) func castRoundsOnceToNearestEven(_ from: DType, _ to: DType) {
        let x = edges(from)
        let sources = Self.elements(x)
        for layout in [Layout.contiguous, .stepped] {
            let y = layout.arrange(x).cast(to: to)
            #expect(y.dtype == to && y.shape == x.shape)
            let wrong = zip(sources, Self.elements(y)).filter { Self.expected($0, in: to) != $1 }
            if let (source, found) = wrong.first {
                let text = "\(from) \(source) became \(to) \(found), expected \(Self.expected(source, in: to))"
                Issue.record("\(layout): \(text); \(wrong.count) of \(sources.count) wrong")
            }
        }
    }

    @Test(arguments: [DType.bfloat16, .float16]) func widerFormatsHoldEveryHalfExactly(_ dtype: DType) {
        let patterns = Array(UInt16.min...UInt16.max)
        let x = tensor(patterns, dtype)
        for wide in [DType.float32, .float64] {
            let back = x.cast(to: wide).cast(to: dtype)
            let found = back.withBytes { Array($0.bindMemory(to: UInt16.self)) }
            let values = Self.elements(x)
            for (i, pattern) in patterns.enumerated() where found[i] != pattern {
                guard case .float(let value) = values[i], value.isNaN else {
                    Issue.record("\(dtype) pattern \(pattern) came back as \(found[i]) through \(wide)")
                    return
                }
            }
        }
    }

    @Test func bfloat16OnTheHostEqualsTheCast() {
        let x = edges(.float32)
        let cast = x.cast(to: .bfloat16).withBytes { Array($0.bindMemory(to: UInt16.self)) }
        for (value, pattern) in zip(x.values(Float.self), cast) {
            let host = BFloat16(value)
            #expect(host.float.isNaN == value.isNaN)
            if !value.isNaN { #expect(host.bitPattern == pattern, "\(value)") }
        }
        #expect(BFloat16(1.0).bitPattern == 0x3f80)
    }

    @Test func elementTypesKnowTheirSizeAndAccumulator() {
        #expect(DType.allCases.map { $0.byteCount } == [4, 8, 2, 2, 4, 8, 1])
        #expect(DType.allCases.filter { $0.isFloat } == [.float32, .float64, .bfloat16, .float16])
        #expect(DType.float64.accumulator == .float64)
        #expect([DType.float32, .bfloat16, .float16].allSatisfy { $0.accumulator == .float32 })
        #expect([DType.int32, .int64, .bool].allSatisfy { $0.accumulator == .int64 })
    }
}
