import AttentionCore
import ConformanceKit
import DistributedCore
import TensorCore
import Testing

/// Correctness bar 3: logits at the edge of the arithmetic, rows and shards with nothing in them.
@Suite struct AdversarialTests {
    @Test(arguments: AttentionConformance.adversarialCases())
    func strategiesSurviveAdversarialLogits(_ input: AttentionCase) throws { try expectStrategiesEqualTheOracle(input) }

    /// Ranks without a token take part in every hop and change nothing.
    @Test(arguments: DistributedKernel.all)
    func emptyShardsAnywhere(_ kernel: DistributedKernel) throws {
        let nothing = Positions.contiguous(count: 0)
        let halves = [Positions.contiguous(count: 20), .contiguous(from: 20, count: 13)]
        let shards = [
            [nothing, halves[0], halves[1]], [halves[0], nothing, halves[1]], [halves[0], halves[1], nothing],
            [nothing, nothing, halves[1], nothing, halves[0], nothing], [nothing, .contiguous(count: 33)],
        ]
        for terms in [AttentionCase.Terms(), .init(causal: true, documentLengths: [10, 23], sinks: true)] {
            let input = AttentionCase("empty shards", batch: 2, heads: 2, length: 33, headSize: 12, spread: 6, terms)
            let truth = AttentionTruth(input)
            for shards in shards {
                let violations = truth.violations(try AttentionOutcome(input, shards: shards) { kernel.over($0) })
                #expect(violations.isEmpty, "\(kernel), \(shards):\n\(violations.joined(separator: "\n"))")
            }
        }
    }

    @Test(arguments: DistributedKernel.all)
    func aSequenceWithoutTokensIsFine(_ kernel: DistributedKernel) throws {
        let input = AttentionCase("nothing", heads: 2, length: 0, headSize: 4, .init(causal: true))
        for ranks in [1, 3] {
            let outcome = try AttentionOutcome(input, ranks: ranks, layout: .zigzag) { kernel.over($0) }
            #expect(outcome.out.isEmpty && outcome.lse.isEmpty && outcome.dK.isEmpty)
        }
    }
}
