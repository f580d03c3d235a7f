import TensorCore

/// How far a value may lie from its reference: |value - reference| <= absolute + relative |reference|.
public struct Tolerance: Sendable, Hashable {
    public var absolute, relative: Double

    public init(absolute: Double, relative: Double) {
        self.absolute = absolute
        self.relative = relative
    }

    /// Bit for bit, but for the sign of zero and the payload of NaN.
    public static let exact = Tolerance(absolute: 0, relative: 0)
    /// A few roundings of 2^-53 beside a float64 reference that sums in another order.
    public static let float64 = Tolerance(absolute: 1e-13, relative: 1e-13)
    /// A few roundings of 2^-24 beside a float64 reference of the same float32 inputs, values of about one.
    public static let float32 = Tolerance(absolute: 5e-7, relative: 1e-6)
    /// A result that was computed in float32 and rounded once to 8 significant bits: half a unit in the last place is 2^-9 to 2^-8.
    public static let bfloat16 = Tolerance(absolute: 1e-6, relative: 0x1.01p-8)
    /// A result that was computed in float32 and rounded once to 11 significant bits.
    public static let float16 = Tolerance(absolute: 1e-6, relative: 0x1.01p-11)
    /// Central differences with a step of 1e-6 in float64 against a derivative: PyTorch's `gradcheck`.
    public static let gradient = Tolerance(absolute: 1e-5, relative: 1e-3)

    /// The tolerance of one operation whose result has this element type.
    public static func rounding(of dtype: DType) -> Tolerance {
        switch dtype {
        case .float32: float32
        case .float64: float64
        case .bfloat16: bfloat16
        case .float16: float16
        case .int32, .int64, .bool: exact
        }
    }

    /// True when `value` is close enough; equal infinities are, and so are two NaNs.
    public func allows(_ value: Double, _ reference: Double) -> Bool {
        if value.isNaN || reference.isNaN { return value.isNaN && reference.isNaN }
        if value.isInfinite || reference.isInfinite { return value == reference }
        return abs(value - reference) <= absolute + relative * abs(reference)
    }

    /// A sentence about the element that is furthest outside, or nil when all lie inside.
    public func violation(_ values: [Double], _ references: [Double]) -> String? {
        if values.count != references.count { return "\(values.count) values against \(references.count) references" }
        var worst: (index: Int, excess: Double)?
        var outside = 0
        for index in values.indices where !allows(values[index], references[index]) {
            outside += 1
            let excess =
                abs(values[index] - references[index]) / max(absolute + relative * abs(references[index]), 1e-300)
            // NaN against a number is the worst there is; comparisons with it are false.
            let rank = excess.isNaN ? Double.infinity : excess
            if worst == nil || rank > worst!.excess { worst = (index, rank) }
        }
        guard let worst else { return nil }
        return "element \(worst.index) is \(values[worst.index]), the reference \(references[worst.index])"
            + " (\(outside) of \(values.count) outside \(absolute) + \(relative) |reference|)"
    }
}
