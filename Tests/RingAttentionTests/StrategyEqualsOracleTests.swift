import ConformanceKit
import Testing

/// Correctness bar 1, and 8 for the bfloat16 cases: every case, every ring size, every layout, every strategy, one bound.
@Suite struct StrategyEqualsOracleTests {
    @Test(arguments: AttentionConformance.cases(full: TestScale.full))
    func strategyEqualsOracle(_ input: AttentionCase) throws { try expectStrategiesEqualTheOracle(input) }
}
