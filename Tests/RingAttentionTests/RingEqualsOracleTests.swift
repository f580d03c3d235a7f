import AttentionCore
import BLASAttention
import CPUAttention
import ConformanceKit
import DistributedCore
import RingAttention
import TensorCore
import Testing

/// Correctness bar 1: every case, every ring size, every layout, both local kernels, one bound.
@Suite struct RingEqualsOracleTests {
    static let locals: [String: any AttentionBackend] = ["cpu": CPUAttention(), "blas": BLASAttention()]

    static func ring(_ local: String) -> @Sendable (any Communicator) -> any AttentionBackend {
        let local = locals[local]!
        return { communicator in
            func open(_ local: some AttentionBackend) -> any AttentionBackend { RingAttention(local, over: communicator) }
            return open(local)
        }
    }

    @Test(arguments: AttentionConformance.cases(full: TestScale.full))
    func ringEqualsOracle(_ input: AttentionCase) throws {
        let truth = AttentionTruth(input)
        for local in Self.locals.keys.sorted() {
            for ranks in TestScale.ringSizes {
                for layout in SequenceLayout.allCases {
                    let outcome = try AttentionOutcome(input, ranks: ranks, layout: layout, Self.ring(local))
                    let violations = truth.violations(outcome)
                    #expect(
                        violations.isEmpty, "\(local), \(ranks) ranks, \(layout):\n\(violations.joined(separator: "\n"))")
                }
            }
        }
    }

    /// Bar 7: a ring of one is the local kernel, to the bit.
    @Test(arguments: ["cpu", "blas"])
    func ringOfOneIsTheLocalKernel(_ local: String) throws {
        for input in AttentionConformance.cases() {
            let alone = try AttentionOutcome(input, Self.locals[local]!, on: CPUDevice())
            let ring = try AttentionOutcome(input, ranks: 1, layout: .zigzag, Self.ring(local))
            #expect(alone == ring, "\(input)")
        }
    }

    /// Bar 7: two identical runs are bit-equal.
    @Test func twoRunsAreBitEqual() throws {
        for input in AttentionConformance.cases().prefix(4) {
            let first = try AttentionOutcome(input, ranks: 4, layout: .zigzag, Self.ring("cpu"))
            let second = try AttentionOutcome(input, ranks: 4, layout: .zigzag, Self.ring("cpu"))
            #expect(first == second, "\(input)")
        }
    }
}
