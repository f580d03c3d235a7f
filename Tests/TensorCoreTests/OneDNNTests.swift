import ConformanceKit
import TensorCore
import Testing

/// oneDNN on the threads of a device. Its bf16 products, which few processors have, are among the cases of `HalfProductTests`; the
/// float32 ones here take the same way through strides, tiles and threads on any machine that has the library.
@Suite(.enabled(if: OneDNN.unavailableReason == nil, "no oneDNN here (Debian: libdnnl2)"))
struct OneDNNTests {
    private func device(threads: Int) -> CPUDevice {
        CPUDevice(threads: threads, products: ProductChoice(float32: .onednn, bfloat16: .onednn))
    }

    @Test func productsAreThoseOfFloat64() {
        let device = device(threads: 2)
        for e in HalfProductTests.extents {
            let (m, n, k) = (e[0], e[1], e[2])
            // A rounding per step of the sum, in any order; operands are below 2.
            let bound = Tolerance(absolute: 4 * 6e-8 * Double(k + 1), relative: 6e-8)
            for (left, right) in [(false, false), (false, true), (true, false), (true, true)] {
                let rows = sample(left ? [k, m] : [m, k], .float32, seed: 3, on: device)
                let columns = sample(right ? [n, k] : [k, n], .float32, seed: 4, on: device)
                let (a, b) = (left ? rows.transposed() : rows, right ? columns.transposed() : columns)
                let truth = Tensor.matmul(a.cast(to: .float64), b.cast(to: .float64)).doubles
                let violation = bound.violation(Tensor.matmul(a, b).doubles, truth)
                #expect(violation == nil, "\(e), transposed \(left) \(right): \(violation ?? "")")
                let sums = sample([m, n], .float32, seed: 5, on: device)
                let expected = zip(sums.doubles, truth).map { $0 + $1 }
                device.matmul(a, b, into: sums, accumulate: true)
                #expect(bound.violation(sums.doubles, expected) == nil, "\(e), \(left) \(right), accumulated")
            }
        }
    }

    @Test func bitsDoNotDependOnTheThreads() {
        let results = [1, 2, 3, 5].map { threads in
            let device = device(threads: threads)
            let a = sample([801, 600], .float32, seed: 1, on: device)
            return Tensor.matmul(a, sample([600, 330], .float32, seed: 2, on: device)).bytes
        }
        #expect(results.allSatisfy { $0 == results[0] })
    }

    @Test(
        .enabled(
            if: OneDNN.unavailableReason(for: .bfloat16) != nil, "oneDNN has bf16 products for this processor"))
    func whatItCannotDoHereIsRefused() {
        let error = #expect(throws: RingZooError.self) { try ProductChoice.named("onednn") }
        #expect(error?.code == .config && error?.message.contains("bfloat16") == true)
        #expect(ProductChoice.best.bfloat16 != .onednn)
    }

    @Test(
        .enabled(
            if: OneDNN.unavailableReason(for: .bfloat16) == nil, "oneDNN has no bf16 products for this processor"))
    func itComputesBFloat16WhereItCan() throws {
        #expect(try ProductChoice.named("onednn").bfloat16 == .onednn)
        #expect(try ProductChoice.named("onednn").float32 == ProductChoice.best.float32)
        #expect(try ProductChoice.named("avx2").bfloat16 == .avx2)
        #expect(ProductChoice.best.bfloat16 == .onednn || !ProductChoice.hasBFloat16Arithmetic)
    }
}
