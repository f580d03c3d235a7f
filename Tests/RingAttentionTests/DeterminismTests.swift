import ConformanceKit
import DistributedCore
import TensorCore
import Testing

/// Correctness bar 7: what is the same, is the same to the bit.
@Suite struct DeterminismTests {
    @Test(arguments: DistributedKernel.all)
    func oneRankIsTheLocalKernel(_ kernel: DistributedKernel) throws {
        for input in kernel.cases {
            let alone = try AttentionOutcome(input, kernel.local.backend, on: CPUDevice())
            for layout in SequenceLayout.allCases where layout != .striped {
                let one = try AttentionOutcome(input, ranks: 1, layout: layout) { kernel.over($0) }
                #expect(alone == one, "\(input)")
            }
        }
    }

    @Test(arguments: DistributedKernel.all)
    func twoRunsAreBitEqual(_ kernel: DistributedKernel) throws {
        for input in kernel.cases {
            let first = try AttentionOutcome(input, ranks: 4, layout: .zigzag) { kernel.over($0) }
            let second = try AttentionOutcome(input, ranks: 4, layout: .zigzag) { kernel.over($0) }
            #expect(first == second, "\(input)")
        }
    }

    @Test(arguments: DistributedKernel.all)
    func threadsDoNotChangeTheBits(_ kernel: DistributedKernel) throws {
        for input in kernel.cases {
            let alone = try AttentionOutcome(input, kernel.local.backend, on: CPUDevice(threads: 1))
            let three = try AttentionOutcome(input, ranks: 3, layout: .zigzag, threads: 3) { kernel.over($0) }
            for threads in [2, 3] {
                let same = try AttentionOutcome(input, kernel.local.backend, on: CPUDevice(threads: threads))
                #expect(same == alone, "\(input), \(threads) threads")
                let sameThree = try AttentionOutcome(input, ranks: 3, layout: .zigzag, threads: 3 * threads) {
                    kernel.over($0)
                }
                #expect(sameThree == three, "\(input), 3 ranks of \(threads) threads")
            }
        }
    }
}
