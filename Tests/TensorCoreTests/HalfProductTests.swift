import ConformanceKit
import TensorCore
import Testing

/// Products of bfloat16 and float16 factors, by all kernels that this machine can run.
@Suite struct HalfProductTests {
    struct Case: Sendable, CustomTestStringConvertible {
        let kernels: ProductKernels
        let factors: DType
        let result: DType
        var testDescription: String { "\(kernels), \(factors) to \(result)" }

        func device(threads: Int = 2) -> CPUDevice {
            CPUDevice(threads: threads, products: ProductChoice(float32: kernels, bfloat16: kernels))
        }
    }

    static let cases = ProductKernels.allCases.flatMap { kernels in
        [DType.bfloat16, .float16].filter { kernels.unavailableReason(for: $0) == nil }.flatMap { half in
            [half, .float32].map { Case(kernels: kernels, factors: half, result: $0) }
        }
    }

    /// A float32 sum of k products of random operands below 2, rounded once to the result's type. Sums so far grow as the root of k and
    /// so does what their roundings (2^-24 each) add up to: a multiple of k + 1, found to be 4.6 at most, with room up to 8.
    private func tolerance(_ result: DType, _ k: Int) -> Tolerance {
        let sums = 8 * 6e-8 * Double(k + 1)
        return Tolerance(absolute: sums, relative: result == .float32 ? 0 : Tolerance.rounding(of: result).relative)
    }

    /// Extents around the edges of register tiles (6 and 16), of blocks (144, 288, 512 and 1024) and of the cut over threads.
    static let extents = [
        [1, 1, 1], [5, 15, 3], [6, 16, 8], [7, 17, 9], [145, 33, 289], [13, 1030, 40], [300, 130, 600], [1030, 40, 17],
        [64, 48, 1100],
    ]

    @Test(arguments: cases) func productsAreThoseOfFloat64(_ x: Case) {
        let device = x.device()
        for e in Self.extents {
            let (m, n, k) = (e[0], e[1], e[2])
            let bound = tolerance(x.result, k)
            for (left, right) in [(false, false), (false, true), (true, false), (true, true)] {
                let rows = sample(left ? [k, m] : [m, k], x.factors, seed: 3, on: device)
                let columns = sample(right ? [n, k] : [k, n], x.factors, seed: 4, on: device)
                let (a, b) = (left ? rows.transposed() : rows, right ? columns.transposed() : columns)
                let truth = Tensor.matmul(a.cast(to: .float64), b.cast(to: .float64)).doubles
                let out = Tensor.full([m, n], .nan, x.result, on: device)
                device.matmul(a, b, into: out, accumulate: false)
                let violation = bound.violation(out.doubles, truth)
                #expect(violation == nil, "\(e), transposed \(left) \(right): \(violation ?? "")")
                // Added to what is there, and still rounded once.
                let sums = sample([m, n], x.result, seed: 5, on: device)
                let expected = zip(sums.doubles, truth).map { $0 + $1 }
                device.matmul(a, b, into: sums, accumulate: true)
                let second = bound.violation(sums.doubles, expected)
                #expect(second == nil, "\(e), transposed \(left) \(right), accumulated: \(second ?? "")")
            }
        }
    }

    @Test(arguments: cases) func batchesBroadcast(_ x: Case) {
        let device = x.device()
        let a = sample([3, 1, 19, 40], x.factors, seed: 1, on: device)
        let b = sample([2, 33, 40], x.factors, seed: 2, on: device).transposed()
        let truth = Tensor.matmul(a.cast(to: .float64), b.cast(to: .float64))
        let out = Tensor.full([3, 2, 19, 33], .nan, x.result, on: device)
        device.matmul(
            a.broadcast(to: [3, 2, 19, 40]), b.broadcast(to: [3, 2, 40, 33]), into: out, accumulate: false)
        #expect(tolerance(x.result, 40).violation(out.doubles, truth.doubles) == nil)
    }

    /// Sums stay float32 over all blocks of the reduction.
    @Test(arguments: cases) func aHalfResultIsTheFloat32ResultRoundedOnce(_ x: Case) {
        let device = x.device()
        let (m, n, k) = (70, 1050, 1300)
        let a = sample([m, k], x.factors, seed: 1, on: device)
        let b = sample([n, k], x.factors, seed: 2, on: device).transposed()
        let wide = Tensor.zeros([m, n], .float32, on: device)
        device.matmul(a, b, into: wide, accumulate: false)
        let isRounded = Tensor.matmul(a, b).bytes == wide.cast(to: x.factors).bytes
        #expect(isRounded)
        if [.avx2, .avx512].contains(x.kernels) {
            let isFloat32Product = wide.bytes == Tensor.matmul(a.cast(to: .float32), b.cast(to: .float32)).bytes
            #expect(isFloat32Product)
        }
    }

    @Test(arguments: cases) func bitsDoNotDependOnTheThreads(_ x: Case) {
        let results = [1, 2, 3, 5].map { threads in
            let device = x.device(threads: threads)
            let a = sample([801, 600], x.factors, seed: 1, on: device)
            let out = sample([801, 330], x.result, seed: 3, on: device)
            device.matmul(a, sample([600, 330], x.factors, seed: 2, on: device), into: out, accumulate: true)
            return out.bytes
        }
        #expect(results.allSatisfy { $0 == results[0] })
    }

    /// No widened copies, whose bytes would depend on the shape and be in the ledger.
    @Test(arguments: cases) func aProductTakesNoWorkingMemory(_ x: Case) {
        let device = x.device()
        let a = sample([400, 700], x.factors, on: device)
        let b = sample([300, 700], x.factors, on: device).transposed()
        let out = Tensor.zeros([400, 300], x.result, on: device)
        device.ledger.resetPeak()
        let before = device.ledger.live()
        device.matmul(a, b, into: out, accumulate: false)
        #expect(device.ledger.peak(.working) == before)
    }

    @Test(arguments: cases) func whatIsNotFiniteStaysInItsRow(_ x: Case) {
        let device = x.device(threads: 1)
        var values = [Float](repeating: 1, count: 7 * 20)
        values[6 * 20 + 3] = .infinity
        let a = Tensor(values, [7, 20], on: device).cast(to: x.factors)
        let found = Tensor.matmul(a, Tensor.ones([20, 17], x.factors, on: device)).doubles
        #expect(found[..<(6 * 17)].allSatisfy { $0 == 20 })
        #expect(found[(6 * 17)...].allSatisfy { $0 == .infinity })
    }

    @Test func anUnknownNameIsRefusedWithTheKnownOnes() throws {
        let error = #expect(throws: RingZooError.self) { try ProductChoice.named("fast") }
        #expect(error?.code == .config && error?.message.contains("'fast'") == true)
        #expect(error?.tried.first?.contains("avx2, avx512, openblas, onednn") == true)
        #expect(try ProductChoice.named("openblas").float32 == .openblas)
        #expect(try ProductChoice.named(nil) == .best)
    }
}
