import ConformanceKit
import TensorCore
import Testing

@Suite struct MatMulTests {
    let device = CPUDevice(threads: 2)

    static func product(_ a: HostArray, _ b: HostArray) -> HostArray {
        let (m, k, n) = (a.shape[a.shape.count - 2], a.shape.last!, b.shape.last!)
        let rank = max(a.shape.count, b.shape.count)
        func batch(_ x: HostArray) -> [Int] {
            [Int](repeating: 1, count: rank - x.shape.count) + x.shape.dropLast(2)
        }
        let shape = zip(batch(a), batch(b)).map { $0 == 1 ? $1 : $0 } + [m, n]
        return HostArray(shape) { place in
            let batch = Array(place.dropLast(2))
            return (0..<k).reduce(0.0) { sum, i in
                func at(_ x: HostArray, _ row: Int, _ column: Int) -> Double {
                    let place = zip(x.shape.dropLast(2), batch.suffix(x.shape.count - 2)).map { $0 == 1 ? 0 : $1 }
                    return x[place + [row, column]]
                }
                return sum + at(a, place[rank - 2], i) * at(b, i, place[rank - 1])
            }
        }
    }

    /// A sum of k products of values of about one, each rounded.
    static func tolerance(_ dtype: DType, inner: Int) -> Tolerance {
        var tolerance = Tolerance.rounding(of: dtype)
        tolerance.absolute *= Double(max(1, inner)).squareRoot()
        return tolerance
    }

    static let shapes: [[[Int]]] = [
        [[1, 1], [1, 1]], [[3, 4], [4, 5]], [[1, 7], [7, 1]], [[7, 1], [1, 7]], [[1, 7], [7, 3]], [[3, 7], [7, 1]],
        [[0, 4], [4, 5]], [[3, 0], [0, 5]], [[3, 4], [4, 0]], [[2, 3, 4], [4, 5]], [[2, 3, 4], [2, 4, 5]],
        [[3, 4], [2, 4, 5]], [[2, 1, 3, 4], [5, 4, 6]], [[1, 3, 4], [2, 4, 5]], [[2, 3, 0], [0, 5]],
        [[2, 0, 3], [3, 4]],
        [[0, 2, 3], [3, 4]], [[17, 33], [33, 65]], [[2, 3, 0], [2, 0, 4]],
    ]

    @Test(arguments: [DType.float32, .float64, .bfloat16, .float16]) func productEqualsReference(_ dtype: DType) {
        for pair in Self.shapes {
            let a = sample(pair[0], dtype, seed: 3, on: device)
            let b = sample(pair[1], dtype, seed: 4, on: device)
            let expected = Self.product(HostArray(a), HostArray(b))
            let tolerance = Self.tolerance(dtype, inner: pair[0].last!)
            for left in Layout.allCases {
                for right in Layout.allCases {
                    let y = Tensor.matmul(left.arrange(a), right.arrange(b))
                    #expect(y.shape == expected.shape && y.dtype == dtype, "\(pair)")
                    let violation = tolerance.violation(y.doubles, expected.values)
                    #expect(violation == nil, "\(pair), \(left) x \(right): \(violation ?? "")")
                }
            }
        }
    }

    /// Larger than a tile both ways and no multiple of one; ones and small whole numbers make float32 exact.
    @Test func tilesMeetWithoutGapOrOverlap() {
        let (m, k, n) = (801, 37, 1100)
        let a = Tensor((0..<m * k).map { Float(($0 * 7 + $0 / k) % 5 - 2) }, [m, k], on: device)
        let b = Tensor((0..<k * n).map { Float(($0 * 3 + $0 / n) % 7 - 3) }, [k, n], on: device)
        let (x, y) = (a.values(Float.self), b.values(Float.self))
        let found = Tensor.matmul(a, b).values(Float.self)
        let turned = Tensor.matmul(a.transposed().contiguous().transposed(), b.transposed().contiguous().transposed())
        var expected = [Float](repeating: 0, count: m * n)
        for i in 0..<m {
            for l in 0..<k {
                for j in 0..<n { expected[i * n + j] += x[i * k + l] * y[l * n + j] }
            }
        }
        #expect(found == expected)
        #expect(turned.values(Float.self) == expected)
    }

    @Test(arguments: [DType.float32, .float64, .bfloat16, .float16]) func accumulationAddsToWhatIsThere(_ dtype: DType)
    {
        let a = sample([2, 3, 4], dtype, seed: 3, on: device)
        let b = sample([2, 4, 5], dtype, seed: 4, on: device)
        let start = sample([2, 3, 5], dtype, seed: 5, on: device)
        var out = start
        out.makeUnique()
        device.matmul(a, b, into: out, accumulate: true)
        let product = Self.product(HostArray(a), HostArray(b))
        let expected = zip(product.values, start.doubles).map { $0 + $1 }
        #expect(Self.tolerance(dtype, inner: 4).violation(out.doubles, expected) == nil)
        // An inner extent of zero adds nothing.
        let before = out.doubles
        let (none, nothing) = (Tensor.zeros([2, 3, 0], dtype, on: device), Tensor.zeros([2, 0, 5], dtype, on: device))
        device.matmul(none, nothing, into: out, accumulate: true)
        #expect(out.doubles == before)
    }

    @Test func repeatedRowsAndBatchesAreReadThroughTheirStrides() {
        let row = sample([1, 1, 4], .float64, seed: 1, on: device).broadcast(to: [3, 5, 4])
        let b = sample([4, 2], .float64, seed: 2, on: device)
        let expected = Self.product(HostArray(row), HostArray(b))
        #expect(Tolerance.float64.violation(Tensor.matmul(row, b).doubles, expected.values) == nil)
        let wide = sample([1, 4, 1], .float64, seed: 2, on: device).broadcast(to: [3, 4, 6])
        let second = Self.product(HostArray(row), HostArray(wide))
        #expect(Tolerance.float64.violation(Tensor.matmul(row, wide).doubles, second.values) == nil)
    }
}
