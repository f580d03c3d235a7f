import ConformanceKit
import DistributedCore
import TensorCore
import Testing

/// Correctness bar 7: what is the same, is the same to the bit.
@Suite struct DeterminismTests {
    @Test(arguments: LocalKernel.allCases)
    func ringOfOneIsTheLocalKernel(_ local: LocalKernel) throws {
        for input in AttentionConformance.cases() {
            let alone = try AttentionOutcome(input, local.backend, on: CPUDevice())
            for layout in SequenceLayout.allCases where layout != .striped {
                let ring = try AttentionOutcome(input, ranks: 1, layout: layout, local.ring)
                #expect(alone == ring, "\(input)")
            }
        }
    }

    @Test(arguments: LocalKernel.allCases)
    func twoRunsAreBitEqual(_ local: LocalKernel) throws {
        for input in AttentionConformance.cases() {
            let first = try AttentionOutcome(input, ranks: 4, layout: .zigzag, local.ring)
            let second = try AttentionOutcome(input, ranks: 4, layout: .zigzag, local.ring)
            #expect(first == second, "\(input)")
        }
    }

    @Test(arguments: LocalKernel.allCases)
    func threadsDoNotChangeTheBits(_ local: LocalKernel) throws {
        for input in AttentionConformance.cases() {
            let alone = try AttentionOutcome(input, local.backend, on: CPUDevice(threads: 1))
            let ring = try AttentionOutcome(input, ranks: 3, layout: .zigzag, threads: 3, local.ring)
            for threads in [2, 3] {
                let same = try AttentionOutcome(input, local.backend, on: CPUDevice(threads: threads))
                #expect(same == alone, "\(input), \(threads) threads")
                let sameRing = try AttentionOutcome(input, ranks: 3, layout: .zigzag, threads: 3 * threads, local.ring)
                #expect(sameRing == ring, "\(input), 3 ranks of \(threads) threads")
            }
        }
    }
}
