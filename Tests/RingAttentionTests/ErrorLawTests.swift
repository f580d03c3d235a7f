import AttentionCore
import ConformanceKit
import DistributedCore
import TensorCore
import Testing

/// Correctness bar 2: the error does not grow with the number of ranks.
@Suite struct ErrorLawTests {
    static let ringSizes = [2, 4, 8] + (TestScale.full ? [16, 64] : [])

    struct Setting: Sendable, CustomTestStringConvertible {
        var kernel: DistributedKernel
        var dtype: DType
        var causal: Bool
        var testDescription: String { "\(kernel.testDescription), \(dtype), \(causal ? "causal" : "full")" }
    }

    static let settings = DistributedKernel.all.flatMap { kernel in
        [DType.float32, .bfloat16].flatMap { dtype in
            (TestScale.full || kernel.strategy == .ring ? [true, false] : [true]).map {
                Setting(kernel: kernel, dtype: dtype, causal: $0)
            }
        }
    }

    /// RMS over eight seeds of each quantity's error, on N ranks against one.
    @Test(arguments: settings)
    func errorDoesNotGrowWithTheRanks(_ setting: Setting) throws {
        var squares: [Int: [String: Double]] = [:]
        for seed in 1...8 as ClosedRange<UInt64> {
            let input = AttentionCase(
                "error law", heads: 2, keyHeads: 1, length: 192, headSize: 32, dtype: setting.dtype, spread: 3,
                seed: seed, .init(causal: setting.causal))
            let truth = AttentionTruth(input)
            for ranks in [1] + Self.ringSizes {
                let outcome = try AttentionOutcome(input, ranks: ranks, layout: .zigzag) {
                    setting.kernel.over($0)
                }
                for (name, error) in truth.rootMeanSquareErrors(outcome) {
                    squares[ranks, default: [:]][name, default: 0] += error * error
                }
            }
        }
        for name in ["out", "lse", "dQ", "dK", "dV"] {
            let alone = try #require(squares[1]?[name]).squareRoot()
            #expect(alone > 0, "an error of exactly 0 would make every ratio pass")
            for ranks in Self.ringSizes {
                let ratio = try #require(squares[ranks]?[name]).squareRoot() / alone
                #expect(ratio <= 1.5, "\(name): error(\(ranks)) / error(1) = \(ratio)")
            }
        }
    }
}
