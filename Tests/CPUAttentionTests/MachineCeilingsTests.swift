import BlockwiseAttention
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
}
