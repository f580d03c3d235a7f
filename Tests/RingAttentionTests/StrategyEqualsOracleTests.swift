import ConformanceKit
import DistributedCore
import TensorCore
import Testing

/// Correctness bar 1, and 8 for the bfloat16 cases: every case, every ring size, every layout, every strategy, one bound.
@Suite struct StrategyEqualsOracleTests {
    @Test(arguments: AttentionConformance.cases(full: TestScale.full))
    func strategyEqualsOracle(_ input: AttentionCase) throws {
        let truth = AttentionTruth(input)
        for kernel in DistributedKernel.all {
            for ranks in kernel.ringSizes(input) {
                for layout in kernel.layouts(ranks) {
                    let outcome = try AttentionOutcome(input, ranks: ranks, layout: layout) { kernel.over($0) }
                    let violations = truth.violations(outcome)
                    #expect(
                        violations.isEmpty,
                        "\(kernel), \(ranks) ranks, \(layout):\n\(violations.joined(separator: "\n"))")
                }
            }
        }
    }
}
