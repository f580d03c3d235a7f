import TensorCore
import Testing

/// float32 products, where this machine has kernels of our own for them.
@Suite struct ProductTests {
    /// Sums of k products, each operand below 2: a rounding per step, in any order.
    private func bound(_ k: Int) -> Double { 4 * 6e-8 * Double(k + 1) }

    private func product(_ a: Tensor, _ b: Tensor, _ dtype: DType) -> Tensor {
        Tensor.matmul(a.cast(to: dtype), b.cast(to: dtype))
    }

    /// Extents around the edges of register tiles (6 and 16), of blocks (144, 288 and 1024) and of the cut over threads.
    @Test(arguments: [
        [1, 1, 1], [5, 15, 3], [6, 16, 8], [7, 17, 9], [145, 33, 289], [13, 1030, 40], [300, 130, 600], [1030, 40, 17],
        [64, 48, 3000],
    ])
    func productsAreThoseOfFloat64(_ extents: [Int]) {
        let device = CPUDevice(threads: 2)
        let (m, n, k) = (extents[0], extents[1], extents[2])
        let tolerance = bound(k)
        for (left, right) in [(false, false), (false, true), (true, false), (true, true)] {
            let a = sample(left ? [k, m] : [m, k], .float32, seed: 3, on: device)
            let b = sample(right ? [n, k] : [k, n], .float32, seed: 4, on: device)
            let (x, y) = (left ? a.transposed() : a, right ? b.transposed() : b)
            let found = product(x, y, .float32).doubles
            let truth = product(x, y, .float64).doubles
            let worst = zip(found, truth).map { abs($0 - $1) }.max()!
            #expect(worst <= tolerance, "\(extents), transposed \(left) \(right): \(worst)")
            // Added to what is there.
            let out = sample([m, n], .float32, seed: 5, on: device)
            let sum = zip(out.doubles, truth).map { $0 + $1 }
            device.matmul(x, y, into: out, accumulate: true)
            #expect(zip(out.doubles, sum).map { abs($0 - $1) }.max()! <= tolerance + 1e-6)
        }
    }

    /// What makes a chunk of tokens equal, to the bit, to the same tokens among others.
    @Test(.enabled(if: ProductKernels.avx2.unavailableReason(for: .float32) == nil, "this processor has no AVX2"))
    func bitsDoNotDependOnTheShapeAround() {
        let device = CPUDevice(threads: 2)
        let (a, b) = (sample([210, 700], .float32, on: device), sample([700, 90], .float32, seed: 2, on: device))
        let whole = Tensor.matmul(a, b)
        for rows in [0..<1, 3..<20, 100..<210] {
            let part = Tensor.matmul(a.slice(axis: 0, rows), b)
            #expect(part.values(Float.self) == whole.slice(axis: 0, rows).values(Float.self))
        }
        let columns = 17..<60
        let part = Tensor.matmul(a, b.slice(axis: 1, columns).contiguous())
        #expect(part.values(Float.self) == whole.slice(axis: 1, columns).values(Float.self))
    }

    /// Shapes that 1, 2, 3, 5 and 16 threads cut into different tiles, some of them more than once along the sum.
    @Test(
        .enabled(if: ProductKernels.avx2.unavailableReason(for: .float32) == nil, "this processor has no AVX2"),
        arguments: [[300, 130, 700], [97, 1030, 600], [1100, 48, 600]])
    func bitsDoNotDependOnTheThreads(_ extents: [Int]) {
        let (m, n, k) = (extents[0], extents[1], extents[2])
        for transposed in [false, true] {
            let results = [1, 2, 3, 5, 16].map { threads in
                let device = CPUDevice(threads: threads)
                let a = sample(transposed ? [k, m] : [m, k], .float32, seed: 3, on: device)
                let b = sample(transposed ? [n, k] : [k, n], .float32, seed: 4, on: device)
                let product = transposed ? Tensor.matmul(a.transposed(), b.transposed()) : Tensor.matmul(a, b)
                return product.values(Float.self)
            }
            #expect(results.allSatisfy { $0 == results[0] }, "\(extents), transposed \(transposed)")
        }
    }

    /// A number that is not finite stays in its row and column, also where a tile reaches over the edge.
    @Test func whatIsNotFiniteStaysInItsRow() {
        let device = CPUDevice(threads: 1)
        var values = [Float](repeating: 1, count: 7 * 20)
        values[6 * 20 + 3] = .infinity
        let out = Tensor.matmul(Tensor(values, [7, 20], on: device), Tensor.ones([20, 17], on: device))
        let found: [Float] = out.values()
        #expect(found[..<(6 * 17)].allSatisfy { $0 == 20 })
        #expect(found[(6 * 17)...].allSatisfy { $0 == .infinity })
    }
}
