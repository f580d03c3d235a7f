import ConformanceKit
import Foundation
import TensorCore
import Testing

@Suite struct ReductionTests {
    let device = CPUDevice(threads: 2)

    /// Reduces on the host, axis order row-major.
    static func reduce(_ x: HostArray, _ axes: [Int], keep: Bool, _ body: ([Double]) -> Double) -> HostArray {
        let axes = axes.map { $0 < 0 ? $0 + x.shape.count : $0 }
        let kept = x.shape.indices.filter { !axes.contains($0) }
        var groups: [[Int]: [Double]] = [:]
        for place in places(x.shape) { groups[kept.map { place[$0] }, default: []].append(x[place]) }
        let shape = keep ? x.shape.indices.map { axes.contains($0) ? 1 : x.shape[$0] } : kept.map { x.shape[$0] }
        return HostArray(shape) { place in
            body(groups[keep ? kept.map { place[$0] } : place] ?? [])
        }
    }

    @Test(arguments: [DType.float32, .float64, .bfloat16, .float16, .int32, .int64], Layout.allCases)
    func reductionEqualsReferenceOverEverySetOfAxes(_ dtype: DType, _ layout: Layout) {
        let whole = !dtype.isFloat
        let x = sample([3, 4, 5, 2], dtype, in: whole ? -9...9 : -2...2, on: device)
        let host = HostArray(x)
        let arranged = layout.arrange(x)
        let tolerance = Tolerance.rounding(of: dtype)
        for mask in 0..<16 {
            let axes = (0..<4).filter { mask >> $0 & 1 == 1 }
            for keep in [false, true] {
                func expect(_ y: Tensor, _ name: String, _ body: ([Double]) -> Double) {
                    let expected = Self.reduce(host, axes, keep: keep, body)
                    #expect(y.shape == expected.shape && y.dtype == dtype, "\(name) \(axes)")
                    let violation = tolerance.violation(y.doubles, expected.values)
                    #expect(violation == nil, "\(name) over \(axes): \(violation ?? "")")
                }
                expect(arranged.sum(axes: axes, keepAxes: keep), "sum") { $0.reduce(0, +) }
                expect(arranged.maximum(axes: axes, keepAxes: keep), "maximum") { $0.max()! }
                expect(arranged.minimum(axes: axes, keepAxes: keep), "minimum") { $0.min()! }
                if dtype.isFloat {
                    expect(arranged.mean(axes: axes, keepAxes: keep), "mean") { $0.reduce(0, +) / Double($0.count) }
                }
            }
        }
        let squares = host.values.reduce(0) { $0 + $1 * $1 }
        let wide = dtype == .bfloat16 || dtype == .float16 ? Tolerance.float32 : tolerance
        #expect(wide.allows(arranged.sumOfSquares(), squares), "sum of squares, rounded no coarser than float32")
    }

    /// One large number and many small ones: a float32 sum would lose all of them.
    @Test func float32SumsAreKeptInFloat64() {
        let values = [Float(1 << 24)] + [Float](repeating: 1, count: 4095) + [-Float(1 << 24)]
        let row = Tensor(values, on: device)
        #expect(row.sum().item == 4095)
        #expect(row.reshaped([1, 4097]).broadcast(to: [3, 4097]).sum(axes: [1]).doubles == [4095, 4095, 4095])
        // Down columns, beside one another and strided.
        let columns = Tensor.concatenate([row.reshaped([4097, 1]), row.reshaped([4097, 1])], axis: 1)
        #expect(columns.sum(axes: [0]).doubles == [4095, 4095])
        #expect(columns.transposed().sum(axes: [1]).doubles == [4095, 4095])
        #expect(columns.sum().item == 8190)
        let ones = Tensor.ones([1 << 12, 300], on: device)
        #expect(ones.sumOfSquares() == Double(300 << 12))
    }

    @Test func halfPrecisionMeansAndSquaresNeitherOverflowNorLoseTheCount() {
        for dtype in [DType.bfloat16, .float16] {
            // The sum, 200,000, is beyond float16; 1/100,000 is among its denormals.
            #expect(Tensor.full([100_000], 2, dtype, on: device).mean().item == 2)
            #expect(
                Tensor.full([4, 100_000], 2, dtype, on: device).mean(axes: [1], keepAxes: true).doubles == [2, 2, 2, 2])
            let squares = Tensor.full([1001], 100, dtype, on: device).sumOfSquares()
            #expect(squares == 10_010_000)
        }
    }

    @Test(arguments: [DType.float32, .float64, .bfloat16]) func emptySumsAreZero(_ dtype: DType) {
        let x = Tensor.ones([0, 3], dtype, on: device)
        #expect(x.sum(axes: [0]).doubles == [0, 0, 0])
        #expect(x.sum(axes: [1]).doubles == [])
        #expect(x.sum().item == 0)
        #expect(x.sumOfSquares() == 0)
    }

    @Test func scalarReducesToItself() {
        let x = Tensor.scalar(-3, .float64, on: device)
        #expect(x.sum().item == -3)
        #expect(x.mean().item == -3)
        #expect(x.maximum().item == -3)
        #expect(x.minimum().item == -3)
        #expect(x.sumOfSquares() == 9)
    }

    @Test(arguments: [DType.float32, .float64, .bfloat16, .float16, .int32, .int64], Layout.allCases)
    func argmaxIsTheFirstOfTheLargest(_ dtype: DType, _ layout: Layout) {
        let x = Tensor([1, 5, 5, 2, -1, -1, -3, -1, 0, 0, 0, 9], [3, 4], on: device).cast(to: dtype)
        #expect(layout.arrange(x).argmax().values(Int64.self) == [1, 0, 3])
    }

    @Test(arguments: [DType.float32, .float64, .bfloat16, .float16], Layout.allCases)
    func softmaxEqualsReference(_ dtype: DType, _ layout: Layout) {
        for shape in [[4, 37], [3, 1], [2, 3, 600], [0, 4], [4, 0]] {
            let x = sample(shape, dtype, in: -8...8, on: device)
            let host = HostArray(x)
            let p = layout.arrange(x).softmax()
            let expected = HostArray(shape) { place in
                let row = (0..<shape.last!).map { host[place.dropLast() + [$0]] }
                let largest = row.max()!
                return exp(host[place] - largest) / row.reduce(0) { $0 + exp($1 - largest) }
            }
            #expect(p.shape == shape && p.dtype == dtype)
            let violation = Tolerance.rounding(of: dtype).violation(p.doubles, expected.values)
            #expect(violation == nil, "\(shape): \(violation ?? "")")
        }
    }

    @Test func softmaxOfMinusInfinityIsZeroAndLargeLogitsAreExact() {
        for dtype in [DType.float32, .float64] {
            let rows: [Double] = [-.infinity, -.infinity, 1e4, -1e4, 0, -.infinity]
            let p = Tensor(rows, [3, 2], on: device).cast(to: dtype).softmax()
            #expect(p.doubles == [0, 0, 1, 0, 1, 0])
        }
    }

    /// dx = p (g - sum(p g)), from half precision too.
    @Test(arguments: [DType.float32, .float64, .bfloat16, .float16]) func softmaxPullbackEqualsReference(_ dtype: DType)
    {
        let p = sample([5, 33], dtype, in: -2...2, on: device).softmax()
        let g = sample([5, 33], dtype, seed: 9, on: device)
        let (hp, hg) = (HostArray(p), HostArray(g))
        let dx = Tensor(uninitialised: [5, 33], dtype, on: device)
        device.softmaxPullback(p, Layout.reversed.arrange(g), into: dx)
        let expected = HostArray([5, 33]) { place in
            let dot = (0..<33).reduce(0.0) { $0 + hp[[place[0], $1]] * hg[[place[0], $1]] }
            return hp[place] * (hg[place] - dot)
        }
        #expect(Tolerance.rounding(of: dtype).violation(dx.doubles, expected.values) == nil)
    }
}
