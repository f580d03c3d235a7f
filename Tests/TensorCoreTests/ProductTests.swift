import CTensorKernels
import Testing

@testable import TensorCore

/// float32 products, where this machine has kernels of our own for them.
@Suite struct ProductTests {
    static let ours = [ProductKernels.avx2, .avx512].filter { $0.unavailableReason(for: .float32) == nil }

    private func device(_ kernels: ProductKernels, threads: Int) -> CPUDevice {
        CPUDevice(threads: threads, products: ProductChoice(float32: kernels, bfloat16: kernels))
    }

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
    @Test(.enabled(if: !ours.isEmpty, "this processor has no AVX2"), arguments: ours)
    func bitsDoNotDependOnTheShapeAround(_ kernels: ProductKernels) {
        let device = device(kernels, threads: 2)
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
        .enabled(if: !ours.isEmpty, "this processor has no AVX2"), arguments: ours,
        [[300, 130, 700], [97, 1030, 600], [1100, 48, 600]])
    func bitsDoNotDependOnTheThreads(_ kernels: ProductKernels, _ extents: [Int]) {
        let (m, n, k) = (extents[0], extents[1], extents[2])
        for transposed in [false, true] {
            let results = [1, 2, 3, 5, 16].map { threads in
                let device = device(kernels, threads: threads)
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

    // MARK: sets of kernels

    private func bits(_ set: rz_product_set, _ a: Tensor, _ b: Tensor, addedTo start: Tensor) -> [UInt8] {
        func factor(_ x: Tensor, lines: Int, depth: Int) -> rz_factor {
            rz_factor(
                address: x.address, lines: Int64(x.shape[lines]), line_stride: Int64(x.strides[lines]),
                depth_stride: Int64(x.strides[depth]))
        }
        let (m, n, k) = (Int64(a.shape[0]), Int64(b.shape[1]), Int64(a.shape[1]))
        let out = Tensor.zeros(start.shape, start.dtype, on: start.device)
        start.device.copy(start, into: out)
        // Not zeros: what is read must have been packed.
        var scratch = [UInt8](repeating: 0xff, count: Int(rz_product_scratch(set, m, n, k, out.dtype.kernelCode)))
        rz_product(
            set, a.dtype.kernelCode, factor(a, lines: 0, depth: 1), factor(b, lines: 1, depth: 0), k,
            out.dtype.kernelCode,
            out.address, n, 1, &scratch)
        return out.bytes
    }

    /// The tiles of AVX-512, in its own instructions or in those of AVX2, against those of AVX2.
    @Test(.enabled(if: !ours.isEmpty, "this processor has no AVX2"), arguments: [DType.float32, .bfloat16, .float16])
    func allSetsHaveTheSameBits(_ dtype: DType) {
        let device = CPUDevice(threads: 1)
        let others =
            [RZ_PRODUCTS_AVX512_EMULATED] + (rz_has_products(RZ_PRODUCTS_AVX512) != 0 ? [RZ_PRODUCTS_AVX512] : [])
        for e in [
            [1, 1, 1], [5, 15, 3], [12, 32, 8], [13, 33, 9], [145, 65, 289], [24, 1050, 40], [300, 130, 600],
        ] {
            let (m, n, k) = (e[0], e[1], e[2])
            for (left, right) in [(false, false), (false, true), (true, false), (true, true)] {
                let a = sample(left ? [k, m] : [m, k], dtype, seed: 3, on: device)
                let b = sample(right ? [n, k] : [k, n], dtype, seed: 4, on: device)
                let (x, y) = (left ? a.transposed() : a, right ? b.transposed() : b)
                for result in Set([dtype, .float32]) {
                    let start = sample([m, n], result, seed: 5, on: device)
                    let truth = bits(RZ_PRODUCTS_AVX2, x, y, addedTo: start)
                    let isSame = others.allSatisfy { bits($0, x, y, addedTo: start) == truth }
                    #expect(isSame, "\(e), transposed \(left) \(right), to \(result)")
                }
            }
        }
    }

    @Test func theBestKernelsAreChosen() {
        #expect(
            ProductChoice.best(ours: .avx512, usesOneDNN: false) == ProductChoice(float32: .avx512, bfloat16: .avx512))
        #expect(ProductChoice.best(ours: .avx2, usesOneDNN: true) == ProductChoice(float32: .avx2, bfloat16: .onednn))
        #expect(
            ProductChoice.best(ours: nil, usesOneDNN: false) == ProductChoice(float32: .openblas, bfloat16: .openblas))
    }

    @Test func anOpenBLASOfAnotherAgeIsToldOf() {
        #expect(OpenBLASCore("Prescott").advice(for: .avx512)?.contains("OPENBLAS_CORETYPE=SkylakeX") == true)
        #expect(OpenBLASCore("Prescott").advice(for: .avx2)?.contains("OPENBLAS_CORETYPE=Haswell") == true)
        #expect(OpenBLASCore("Zen").advice(for: .avx2) == nil)
        #expect(OpenBLASCore("SkylakeX").advice(for: .avx512) == nil)
        #expect(OpenBLASCore("Nehalem").advice(for: .older) == nil)
    }
}
