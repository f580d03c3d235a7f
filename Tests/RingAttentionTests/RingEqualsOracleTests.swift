import ConformanceKit
import DistributedCore
import TensorCore
import Testing

/// Correctness bar 1, and 8 for the bfloat16 cases: every case, every ring size, every layout, both local kernels, one bound.
@Suite struct RingEqualsOracleTests {
    @Test(arguments: AttentionConformance.cases(full: TestScale.full))
    func ringEqualsOracle(_ input: AttentionCase) throws {
        let truth = AttentionTruth(input)
        for local in LocalKernel.allCases {
            for ranks in TestScale.ringSizes {
                for layout in SequenceLayout.allCases {
                    let outcome = try AttentionOutcome(input, ranks: ranks, layout: layout, local.ring)
                    let violations = truth.violations(outcome)
                    #expect(
                        violations.isEmpty,
                        "\(local), \(ranks) ranks, \(layout):\n\(violations.joined(separator: "\n"))")
                }
            }
        }
    }
}
