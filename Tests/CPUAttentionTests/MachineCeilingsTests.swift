import BlockwiseAttention
import CTensorKernels
import TensorCore
import Testing

@Suite struct MachineCeilingsTests {
    @Test func ceilingsAreRatesOfThisMachine() {
        let ceilings = MachineCeilings(on: ThreadPool(workers: 1))
        #expect(ceilings.threads == 1)
        // Wide bounds: any machine that runs this does more than a tenth and less than a hundred times a core of today.
        #expect(ceilings.gigaflops > 0.5 && ceilings.gigaflops < 50_000)
        #expect(ceilings.readGigabytes > 0.1 && ceilings.readGigabytes < 10_000)
    }

    /// Of any size: one too small to be read in vectors, and one that the threads share.
    @Test func theRateOfReadingATensorIsBytesASecond() {
        let device = CPUDevice(threads: 2)
        for shape in [[3, 5], [1 << 20]] {
            let rate = MachineCeilings.readRate(of: Tensor.full(shape, 1, .bfloat16, on: device), on: device.pool)
            #expect(rate > 1e4 && rate < 1e13)
        }
    }

    /// A rate of memory counts bytes that were read: all of them, or the sum is another.
    @Test func everyNumberIsRead() {
        #expect(rz_read_sum((0..<1024).map(Float.init), 1024) == 1023 * 512)
    }
}
