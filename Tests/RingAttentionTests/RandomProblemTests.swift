import AttentionCore
import ConformanceKit
import DistributedCore
import TensorCore
import Testing

/// Correctness bar 5: random masks, lengths and shards against the oracle.
@Suite struct RandomProblemTests {
    struct Problem: Sendable {
        var input: AttentionCase
        var shards: [Positions]
        /// [B or 1, T]; negative where a token is padding.
        var documents: [Int32]?
    }

    /// Lengths that no ring size divides, more ranks than tokens, documents of one token, padding anywhere.
    static func problem(_ index: Int) -> Problem {
        var draw = Draw(seed: UInt64(index))
        let length = draw.chance(4) ? draw(1...6) : draw(1...45)
        let batch = draw(1...2)
        let keyHeads = draw(1...2)
        let heads = keyHeads * draw(1...3)
        var terms = AttentionCase.Terms(causal: draw.chance(2))
        if draw.chance(3) { terms.window = .init(back: draw(0...length), ahead: draw(0...5)) }
        if draw.chance(2) { terms.documentIDs = documents(&draw, draw.chance(2) ? batch : 1, length) }
        terms.alibi = draw.chance(4)
        if draw.chance(4) { terms.softCap = Double(draw(2...40)) }
        terms.sinks = draw.chance(4)
        if draw.chance(3) {
            // Always per key: the gradient of any other is a sum to exactly 0 of terms that the bound does not see (float64 does).
            terms.biasAxes = (0..<3).map { _ in draw.chance(2) } + [true]
            if draw.chance(2) { terms.hiddenShare = Double(draw(1...9)) / 10 }
        }
        // Dropping more would multiply dP, and with it the rounding of a dP - delta that should be 0, by more than the bound knows of.
        if draw.chance(4) { terms.dropout = Double(draw(1...5)) / 10 }
        let dtype: DType = draw.chance(5) ? .float64 : draw.chance(5) ? .bfloat16 : .float32
        let input = AttentionCase(
            "random \(index)", batch: batch, heads: heads, keyHeads: keyHeads, length: length, headSize: draw(1...20),
            dtype: dtype, spread: [1.0, 6, 60][draw(0...2)], seed: UInt64(index), terms)
        return Problem(input: input, shards: shards(&draw, length), documents: terms.documentIDs)
    }

    private static func documents(_ draw: inout Draw, _ batch: Int, _ length: Int) -> [Int32] {
        (0..<batch).flatMap { _ -> [Int32] in
            switch draw(0...3) {
            case 0: return (0..<length).map { Int32($0) }  // one token each
            case 1: return (0..<length).map { _ in Int32(draw(-1...2)) }  // interleaved, padding between
            default:
                // Packed, with padding at the end.
                let padding = draw(0...length)
                var (ids, id) = ([Int32](), Int32(0))
                while ids.count < length - padding {
                    ids += [Int32](repeating: id, count: min(draw(1...9), length - padding - ids.count))
                    id += 1
                }
                return ids + [Int32](repeating: -1, count: padding)
            }
        }
    }

    private static func shards(_ draw: inout Draw, _ length: Int) -> [Positions] {
        let ranks = draw(1...9)
        if draw.chance(2) {
            let layout = SequenceLayout.allCases[draw(0...2)]
            return (0..<ranks).map { layout.positions(length: length, rank: $0, size: ranks) }
        }
        // Every token to any rank, in any order.
        var tokens = Array(0..<length)
        for i in tokens.indices.dropLast() { tokens.swapAt(i, draw(i...length - 1)) }
        var runs = [[Positions.Run]](repeating: [], count: ranks)
        for token in tokens { runs[draw(0...ranks - 1)].append(.init(start: token, count: 1)) }
        return runs.map { Positions(runs: $0) }
    }

    static let count = TestScale.full ? 2_000 : 300

    @Test(arguments: DistributedKernel.all)
    func randomProblemsEqualTheOracle(_ kernel: DistributedKernel) throws {
        var errors: [String: AttentionTruth.ErrorSum] = [:]
        for index in 1...Self.count {
            let problem = Self.problem(index)
            let input = problem.input
            let outcome = try AttentionOutcome(input, shards: problem.shards) { kernel.over($0) }
            let truth = AttentionTruth(input)
            let violations = truth.violations(outcome, includingRMS: false)
            #expect(
                violations.isEmpty,
                "\(kernel), \(input.terms), \(problem.shards):\n\(violations.joined(separator: "\n"))")
            errors["\(input.dtype), spread \(input.spread)", default: .init()].add(truth, outcome)
        }
        for (kind, sum) in errors {
            for (name, ratio) in sum.ratios {
                #expect(
                    ratio <= 2, "\(kernel), \(kind): RMS error of \(name) is \(ratio) times the naive computation's")
            }
        }
    }

    /// Padding is a document of its own whose upstream gradient is 0: what it holds gets no gradient, not even a rounding.
    @Test(arguments: DistributedKernel.all)
    func gradientsOfPaddingAreExactlyZero(_ kernel: DistributedKernel) throws {
        var (padded, real) = (0, 0)
        for index in 1...Self.count {
            let problem = Self.problem(index)
            let input = problem.input
            guard let documents = problem.documents, documents.contains(where: { $0 < 0 }) else { continue }
            let outcome = try AttentionOutcome(input, shards: problem.shards) { kernel.over($0) }
            for (name, values, heads) in [
                ("dQ", outcome.dQ, input.heads), ("dK", outcome.dK, input.keyHeads), ("dV", outcome.dV, input.keyHeads),
            ] {
                for (index, value) in values.enumerated() {
                    let token = index / input.headSize % input.length
                    let batch = index / (heads * input.length * input.headSize)
                    let id = documents[documents.count == input.length ? token : batch * input.length + token]
                    if id < 0 {
                        padded += 1
                        #expect(value == 0, "\(kernel), \(input): \(name)[\(index)] of token \(token)")
                    } else if value != 0 {
                        real += 1
                    }
                }
            }
        }
        #expect(padded > 1_000 && real > 1_000, "the draw has to contain padding and tokens")
    }
}
