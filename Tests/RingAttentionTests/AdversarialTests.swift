import AttentionCore
import ConformanceKit
import DistributedCore
import TensorCore
import Testing

/// Correctness bar 3: logits at the edge of the arithmetic, rows and shards with nothing in them.
@Suite struct AdversarialTests {
    @Test(arguments: AttentionConformance.adversarialCases())
    func ringSurvivesAdversarialLogits(_ input: AttentionCase) throws {
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

    /// Ranks without a token take part in every hop and change nothing.
    @Test(arguments: LocalKernel.allCases)
    func emptyShardsAnywhere(_ local: LocalKernel) throws {
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
                let violations = truth.violations(try AttentionOutcome(input, shards: shards, local.ring))
                #expect(violations.isEmpty, "\(local), \(shards):\n\(violations.joined(separator: "\n"))")
            }
        }
    }

    @Test(arguments: LocalKernel.allCases)
    func aSequenceWithoutTokensIsFine(_ local: LocalKernel) throws {
        let input = AttentionCase("nothing", heads: 2, length: 0, headSize: 4, .init(causal: true))
        for ranks in [1, 3] {
            let outcome = try AttentionOutcome(input, ranks: ranks, layout: .zigzag, local.ring)
            #expect(outcome.out.isEmpty && outcome.lse.isEmpty && outcome.dK.isEmpty)
        }
    }
}
