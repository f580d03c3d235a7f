import ConformanceKit
import Foundation
import TensorCore
import Testing

/// A function of one number, as a tensor operation and as a reference in float64.
struct UnaryRow: Sendable, CustomTestStringConvertible {
    let name: String
    var range: ClosedRange<Double> = -6...6
    let operation: @Sendable (Tensor) -> Tensor
    let reference: @Sendable (Double) -> Double
    var testDescription: String { name }

    static let table: [UnaryRow] = [
        UnaryRow(name: "negate", operation: { -$0 }, reference: { -$0 }),
        UnaryRow(name: "absolute", operation: { $0.absolute }, reference: { abs($0) }),
        UnaryRow(name: "squared", operation: { $0.squared }, reference: { $0 * $0 }),
        UnaryRow(name: "squareRoot", range: 0...6, operation: { $0.squareRoot }, reference: { $0.squareRoot() }),
        UnaryRow(
            name: "reciprocalSquareRoot", range: 0.01...6, operation: { $0.reciprocalSquareRoot },
            reference: { 1 / $0.squareRoot() }),
        UnaryRow(name: "reciprocal", range: 0.01...6, operation: { $0.reciprocal }, reference: { 1 / $0 }),
        UnaryRow(name: "exponential", operation: { $0.exponential }, reference: { exp($0) }),
        UnaryRow(name: "logarithm", range: 0.01...6, operation: { $0.logarithm }, reference: { log($0) }),
        UnaryRow(name: "sine", operation: { $0.sine }, reference: { sin($0) }),
        UnaryRow(name: "cosine", operation: { $0.cosine }, reference: { cos($0) }),
        UnaryRow(name: "hyperbolicTangent", operation: { $0.hyperbolicTangent }, reference: { tanh($0) }),
        UnaryRow(name: "errorFunction", operation: { $0.errorFunction }, reference: { erf($0) }),
        UnaryRow(name: "sigmoid", operation: { $0.sigmoid }, reference: { 1 / (1 + exp(-$0)) }),
        UnaryRow(name: "silu", operation: { $0.silu }, reference: { $0 / (1 + exp(-$0)) }),
        UnaryRow(
            name: "gelu", operation: { $0.gelu }, reference: { 0.5 * $0 * erfc(-$0 / 2.0.squareRoot()) }),
        UnaryRow(
            name: "geluTanh", operation: { $0.geluTanh },
            reference: { 0.5 * $0 * (1 + tanh((2 / Double.pi).squareRoot() * ($0 + 0.044715 * $0 * $0 * $0))) }),
        UnaryRow(name: "relu", operation: { $0.relu }, reference: { max($0, 0) }),
    ]
}

/// A function of two numbers, likewise.
struct BinaryRow: Sendable, CustomTestStringConvertible {
    let name: String
    var range: ClosedRange<Double> = -3...3
    let operation: @Sendable (Tensor, Tensor) -> Tensor
    let reference: @Sendable (Double, Double) -> Double
    var testDescription: String { name }

    static let table: [BinaryRow] = [
        BinaryRow(name: "add", operation: { $0 + $1 }, reference: { $0 + $1 }),
        BinaryRow(name: "subtract", operation: { $0 - $1 }, reference: { $0 - $1 }),
        BinaryRow(name: "multiply", operation: { $0 * $1 }, reference: { $0 * $1 }),
        BinaryRow(name: "divide", range: 0.5...3, operation: { $0 / $1 }, reference: { $0 / $1 }),
        BinaryRow(name: "power", range: 0.5...3, operation: { Tensor.power($0, $1) }, reference: { pow($0, $1) }),
        BinaryRow(name: "maximum", operation: { Tensor.maximum($0, $1) }, reference: { max($0, $1) }),
        BinaryRow(name: "minimum", operation: { Tensor.minimum($0, $1) }, reference: { min($0, $1) }),
    ]
}

@Suite struct ElementwiseTests {
    let device = CPUDevice(threads: 2)
    static let halves: [DType] = [.bfloat16, .float16]

    @Test(arguments: UnaryRow.table) func functionEqualsFloat64Reference(_ row: UnaryRow) {
        for dtype in [DType.float32, .float64] {
            // Longer than one piece of the loop, with a tail that fits no vector; and strided small ones.
            for (shape, layouts) in [([37, 601], [Layout.contiguous, .window]), ([3, 5, 7], Layout.allCases)] {
                let x = sample(shape, dtype, in: row.range, on: device)
                let expected = x.doubles.map(row.reference)
                for layout in layouts {
                    let y = row.operation(layout.arrange(x))
                    #expect(y.shape == shape && y.dtype == dtype)
                    let violation = Tolerance.rounding(of: dtype).violation(y.doubles, expected)
                    #expect(violation == nil, "\(dtype) \(layout): \(violation ?? "")")
                }
            }
        }
    }

    @Test(arguments: BinaryRow.table) func pairEqualsFloat64Reference(_ row: BinaryRow) {
        let shapes: [([Int], [Int])] = [
            ([29, 601], [29, 601]), ([3, 5], [5]), ([5], [3, 5]), ([3, 1], [1, 5]), ([], [3, 5]), ([3, 5], []),
            ([2, 1, 3], [4, 1]), ([70], [300, 1]), ([0, 3], [3]), ([1, 3], [0, 1]), ([1], [1, 1]),
        ]
        for dtype in [DType.float32, .float64] {
            for (left, right) in shapes {
                let a = sample(left, dtype, seed: 5, in: row.range, on: device)
                let b = sample(right, dtype, seed: 6, in: row.range, on: device)
                let rank = max(left.count, right.count)
                let shape = (0..<rank).map { axis -> Int in
                    let extents = [left, right].map { axis < rank - $0.count ? 1 : $0[axis - rank + $0.count] }
                    return extents[0] == 1 ? extents[1] : extents[0]
                }
                let (ha, hb) = (HostArray(a), HostArray(b))
                let expected = HostArray(shape) { row.reference(ha.broadcast($0), hb.broadcast($0)) }
                for layout in Layout.allCases {
                    let y = row.operation(layout.arrange(a), b)
                    let z = row.operation(a, layout.arrange(b))
                    #expect(y.shape == shape && y.dtype == dtype)
                    let tolerance = Tolerance.rounding(of: dtype)
                    let violation = tolerance.violation(y.doubles, expected.values)
                    #expect(violation == nil, "\(dtype) \(left) \(right) \(layout) left: \(violation ?? "")")
                    #expect(y.bytes == z.bytes, "\(dtype) \(left) \(right) \(layout): bits depend on the strides")
                }
            }
        }
    }

    @Test(arguments: halves) func halfPrecisionEqualsFloat32RoundedOnce(_ dtype: DType) {
        for layout in Layout.allCases {
            for row in UnaryRow.table {
                let x = sample([3, 700], dtype, in: row.range, on: device)
                let expected = row.operation(x.cast(to: .float32)).cast(to: dtype)
                #expect(row.operation(layout.arrange(x)).bytes == expected.bytes, "\(row.name) \(layout)")
            }
            for row in BinaryRow.table {
                let a = sample([3, 700], dtype, seed: 5, in: row.range, on: device)
                let b = sample([3, 1], dtype, seed: 6, in: row.range, on: device)
                let expected = row.operation(a.cast(to: .float32), b.cast(to: .float32)).cast(to: dtype)
                #expect(row.operation(layout.arrange(a), b).bytes == expected.bytes, "\(row.name) \(layout)")
            }
        }
    }

    @Test(arguments: [DType.float32, .float64, .bfloat16, .float16]) func nanPassesThroughEveryFunction(_ dtype: DType)
    {
        let nan = Tensor([Double.nan, 1], on: device).cast(to: dtype)
        let one = Tensor([1.0, 1], on: device).cast(to: dtype)
        for row in UnaryRow.table { #expect(row.operation(nan).doubles[0].isNaN, "\(row.name)") }
        for row in BinaryRow.table where row.name != "power" {
            #expect(row.operation(nan, one).doubles[0].isNaN, "\(row.name), left")
            #expect(row.operation(one, nan).doubles[0].isNaN, "\(row.name), right")
        }
        #expect(Tensor([Double.nan, 1], [1, 2], on: device).cast(to: dtype).maximum().item.isNaN)
        #expect(Tensor([1, Double.nan], [1, 2], on: device).cast(to: dtype).minimum(axes: [1]).item.isNaN)
        for values in [[Double.nan, 1, 2], [-.infinity, .nan, -.infinity], [.nan, .nan, .nan]] {
            let p = Tensor(values, on: device).cast(to: dtype).softmax().doubles
            #expect(p.allSatisfy { $0.isNaN }, "softmax of \(values) gives \(p)")
        }
    }

    /// Float32's exponential is our own; its whole range is walked, in steps that are no multiple of anything.
    @Test func exponentialIsGoodToAUnitAndAQuarterOverItsWholeRange() {
        var inputs: [Float] = []
        var x: Float = -110
        while x < 95 {
            inputs.append(x)
            x += 0.00173
        }
        let found = Tensor(inputs, on: device).exponential.values(Float.self)
        var worst = 0.0
        for (x, y) in zip(inputs, found) {
            let exact = exp(Double(x))
            if exact >= 0x1.ffffffp127 {
                #expect(y == .infinity, "exp(\(x))")
            } else {
                // One unit in the last place of the result, which below 2^-126 stays at 2^-149.
                let unit = Double(max(Float(exact).ulp, Float.leastNonzeroMagnitude))
                worst = max(worst, abs(Double(y) - exact) / unit)
            }
        }
        #expect(worst < 1.25, "\(worst) units in the last place")
        let ends = Tensor([-.infinity, .infinity, 0, -1000, 1000] as [Float], on: device).exponential.values(Float.self)
        #expect(ends == [0, .infinity, 1, 0, .infinity])
    }

    /// So are float32's tanh and erf; every exponent is met on both sides of zero.
    @Test func tanhAndErfAreGoodToTwoUnitsOverTheirWholeRange() {
        let bits = stride(from: UInt32(0), through: Float.infinity.bitPattern, by: 10_007)
        let inputs = bits.enumerated().map { Float(bitPattern: $1 | UInt32($0 & 1) << 31) } + [-0.0]
        let x = Tensor(inputs, on: device)
        for (name, found, exact) in [
            ("tanh", x.hyperbolicTangent, { tanh($0) }), ("erf", x.errorFunction, { erf($0) }),
        ] as [(String, Tensor, (Double) -> Double)] {
            var worst = 0.0
            for (x, y) in zip(inputs, found.values(Float.self)) {
                let value = exact(Double(x))
                let unit = Double(max(Float(value).ulp, Float.leastNonzeroMagnitude))
                worst = max(worst, abs(Double(y) - value) / unit)
                if y.sign != x.sign { Issue.record("\(name)(\(x)) is \(y)") }
            }
            #expect(worst < 2, "\(name): \(worst) units in the last place")
        }
        let nothing = Tensor([Float.nan], on: device)
        #expect(nothing.hyperbolicTangent.item.isNaN && nothing.errorFunction.item.isNaN)
    }

    @Test func functionsTakeTheirLimitsAtInfinity() {
        for dtype in [DType.float32, .float64] {
            let ends = Tensor([-Double.infinity, .infinity], on: device).cast(to: dtype)
            #expect(ends.sigmoid.doubles == [0, 1])
            #expect(ends.relu.doubles == [0, .infinity])
            #expect(ends.hyperbolicTangent.doubles == [-1, 1])
            #expect(ends.errorFunction.doubles == [-1, 1])
            #expect(ends.reciprocal.doubles == [0, 0])
            #expect(Tensor.zeros([1], dtype, on: device).logarithm.doubles == [-.infinity])
            let large = Tensor([-200.0, 200], on: device).cast(to: dtype)
            #expect(large.silu.doubles[1] == 200 && abs(large.silu.doubles[0]) < 1e-80)
            #expect(large.geluTanh.doubles == [0, 200])
        }
    }

    @Test func integersWrapAndDivisionByZeroGivesZero() {
        let a = Tensor([Int32.max, Int32.min, 7, -7, 5], on: device)
        let b = Tensor([1, -1, 2, 2, 0] as [Int32], on: device)
        #expect((a + b).values(Int32.self) == [.min, .max, 9, -5, 5])
        #expect((a - b).values(Int32.self) == [.max - 1, .min + 1, 5, -9, 5])
        #expect((a * b).values(Int32.self) == [.max, .min, 14, -14, 0])
        #expect((a / b).values(Int32.self) == [.max, .min, 3, -3, 0])
        #expect(Tensor.maximum(a, b).values(Int32.self) == [.max, -1, 7, 2, 5])
        #expect(Tensor.minimum(a, b).values(Int32.self) == [1, .min, 2, -7, 0])
        #expect((-a).values(Int32.self) == [-.max, .min, -7, 7, -5])
        #expect(a.absolute.values(Int32.self) == [.max, .min, 7, 7, 5])
        let wide = Tensor([Int64.max, Int64.min, -9], on: device)
        #expect((wide + wide).values(Int64.self) == [-2, 0, -18])
        #expect((wide / Tensor([-1, -1, 2] as [Int64], on: device)).values(Int64.self) == [-.max, .min, -4])
        #expect(wide.squared.values(Int64.self) == [1, 0, 81])
    }

    @Test(arguments: DType.allCases) func comparisonAndSelectionHoldForEveryType(_ dtype: DType) {
        // 600 elements: more than one piece of the half-precision loops.
        let a = Tensor((0..<600).map { Double($0 * 7 % 5 - 1) }, [2, 300], on: device).cast(to: dtype)
        let b = Tensor((0..<300).map { Double($0 * 3 % 4 - 1) }, on: device).cast(to: dtype)
        for layout in Layout.allCases {
            let x = layout.arrange(a)
            let (u, v) = (HostArray(a), HostArray(b))
            func expect(_ y: Tensor, _ name: String, _ law: (Double, Double) -> Bool) {
                let expected = places(a.shape).map { law(u[$0], v.broadcast($0)) ? 1.0 : 0 }
                #expect(y.dtype == .bool && y.doubles == expected, "\(name) \(layout)")
            }
            expect(x .== b, "==") { $0 == $1 }
            expect(x .!= b, "!=") { $0 != $1 }
            expect(x < b, "<") { $0 < $1 }
            expect(x <= b, "<=") { $0 <= $1 }
            let chosen = Tensor.select(x < b, x, b)
            #expect(chosen.dtype == dtype)
            #expect(chosen.doubles == places(a.shape).map { Swift.min(u[$0], v.broadcast($0)) }, "select \(layout)")
        }
    }

    @Test func nothingComparesWithNaN() {
        let a = Tensor([Double.nan, .nan, 1], on: device)
        let b = Tensor([Double.nan, 1, .nan], on: device)
        #expect((a .== b).doubles == [0, 0, 0])
        #expect((a .!= b).doubles == [1, 1, 1])
        #expect((a < b).doubles == [0, 0, 0])
        #expect((a <= b).doubles == [0, 0, 0])
    }

    @Test(arguments: DType.allCases) func fillReachesEveryElementOfEveryType(_ dtype: DType) {
        #expect(Tensor.full([5, 1000], 1, dtype, on: device).doubles == [Double](repeating: 1, count: 5000))
        #expect(Tensor.zeros([5, 1000], dtype, on: device).doubles == [Double](repeating: 0, count: 5000))
        #expect(Tensor.full([0, 3], 1, dtype, on: device).doubles == [])
        #expect(Tensor.scalar(1, dtype, on: device).item == 1)
    }
}
