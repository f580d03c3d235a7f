import CAttentionKernels
import ConformanceKit
import Foundation
import Testing

/// To the nearest bf16 number, ties to even.
func nearestBFloat16(_ value: Double) -> Double {
    let bits = Float(value).bitPattern
    guard Float(value).isFinite else { return value }
    return Double(Float(bitPattern: (bits &+ 0x7fff &+ (bits >> 16 & 1)) & 0xffff_0000))
}

/// The engines that multiply bf16 numbers; the emulated sets run the lines of both on any machine.
extension CAttentionKernelsTests {
    /// Checks all of a case against the oracle, by the bar of bf16.
    private func checkBFloat16(
        _ c: AttentionCase, splits: [Range<Int>]? = nil, workers: Int = 1, _ note: String = "",
        location: SourceLocation = #_sourceLocation
    ) {
        var c = c
        c.stored = .bfloat16
        for error in KernelRun(c, Float.self, splits: splits, workers: workers).rmsErrors() {
            #expect(
                error.ratio <= 1, "\(error.name) \(note), kernels \(String(cString: rz_attention_kernels()))",
                sourceLocation: location)
        }
    }

    private func with(_ kernels: String, _ body: () -> Void) {
        #expect(rz_attention_set_kernels(kernels))
        body()
        rz_attention_set_kernels(nil)
    }

    @Test(arguments: bfloat16Sets) func weightsThatWillBeRoundedAreWithinThreeMillionths(_ kernels: String) {
        with(kernels) {
            let x = (0..<1 << 18).map { Float($0) * (127 + 126) / Float(1 << 18) - 126 }
            var y = [Float](repeating: 0, count: x.count)
            rz_attention_exp2_bf16(x, &y, Int64(x.count))
            let worst = zip(x, y).reduce(0.0) { max($0, abs(Double($1.1) / exp2(Double($1.0)) - 1)) }
            #expect(worst <= 3e-6, "\(worst)")
            #expect(worst > 1e-6, "these are not the exponentials of weights")
            let edges: [Float] = [-160, -1000, -3e38, -.infinity, .nan, 200, 1e30]
            y = [Float](repeating: 5, count: edges.count)
            rz_attention_exp2_bf16(edges, &y, Int64(edges.count))
            #expect(y[..<4].allSatisfy { $0 == 0 } && y[4].isNaN && y[5] == .infinity && y[6] == .infinity)
        }
    }

    @Test(arguments: bfloat16Sets) func bfloat16ProductsOfRandomProblemsAreAsGoodAsNaiveOnes(_ kernels: String) {
        with(kernels) {
            for seed in 500..<540 as Range<UInt64> { checkBFloat16(.random(seed), "seed \(seed)") }
        }
    }

    @Test(arguments: bfloat16Sets) func bfloat16ProductsOfEveryHeadSizeAreAsGoodAsNaiveOnes(_ kernels: String) {
        with(kernels) {
            var random = SplitMix64(seed: 31)
            for size in [1, 2, 5, 31, 32, 33, 48, 64, 65, 80, 96, 128, 200, 256] {
                for (queries, keys, heads) in [(1, 1, 1), (7, 193, 2), (201, 257, 1)] {
                    var c = AttentionCase(heads: heads, queries: queries, keys: keys, size: size)
                    c.causal = size % 2 == 0
                    c.fill(&random)
                    checkBFloat16(c, "\(size), \(queries) x \(keys)")
                }
            }
        }
    }

    @Test(arguments: bfloat16Sets) func bfloat16ProductsUnderEveryMaskTermAreAsGoodAsNaiveOnes(_ kernels: String) {
        var random = SplitMix64(seed: 32)
        // Two blocks of 192 queries and keys, the second short.
        var plain = AttentionCase(heads: 2, kvHeads: 2, queries: 260, keys: 300, size: 64)
        plain.fill(&random)
        let cases = plain.withEachMaskTerm(&random)
        with(kernels) { for (name, c) in cases { checkBFloat16(c, name) } }
    }

    @Test(arguments: bfloat16Sets) func bfloat16StateIsCarriedOverAnyCut(_ kernels: String) {
        with(kernels) {
            for seed in 600..<620 as Range<UInt64> {
                var random = SplitMix64(seed: seed)
                let c = AttentionCase.random(seed)
                var cuts = Set([0, c.keys])
                for _ in 0..<Int.random(in: 1...6, using: &random) {
                    cuts.insert(Int.random(in: 0...c.keys, using: &random))
                }
                let ends = cuts.sorted()
                let splits = zip(ends, ends.dropFirst()).map { $0..<$1 }.shuffled(using: &random)
                checkBFloat16(c, splits: splits, "seed \(seed), \(splits)")
            }
        }
    }

    @Test(arguments: bfloat16Sets) func manySplitsKeepTheErrorOfOneInBFloat16(_ kernels: String) {
        func squaredErrors(_ splits: Int) -> Double {
            (0..<8 as Range<UInt64>).reduce(0) { sum, seed in
                var random = SplitMix64(seed: 2000 + seed)
                var c = AttentionCase(queries: 64, keys: 640, size: 32, spread: 6, causal: true)
                c.stored = .bfloat16
                c.fill(&random)
                let run = KernelRun(
                    c, Float.self, splits: (0..<splits).map { (640 * $0 / splits)..<(640 * ($0 + 1) / splits) })
                return zip(run.out, run.oracle!.out).reduce(sum) { $0 + ($1.1 - Double($1.0)) * ($1.1 - Double($1.0)) }
            }
        }
        with(kernels) {
            let one = squaredErrors(1)
            for splits in [4, 64] { #expect((squaredErrors(splits) / one).squareRoot() <= 1.2, "\(splits) splits") }
        }
    }

    @Test(arguments: bfloat16Sets) func bfloat16ProductsHaveTheSameBitsWithAnyNumberOfWorkers(_ kernels: String) {
        var cases = (700..<706 as Range<UInt64>).map { AttentionCase.random($0, stored: .bfloat16) }
        // Several units of each kind, and decoding cut over the keys.
        for (queries, keys) in [(700, 900), (12, 3000)] {
            var random = SplitMix64(seed: 33)
            var c = AttentionCase(heads: 2, kvHeads: 1, queries: queries, keys: keys, size: 64, causal: true)
            c.stored = .bfloat16
            c.fill(&random)
            cases.append(c)
        }
        with(kernels) {
            for (index, c) in cases.enumerated() {
                let one = KernelRun(c, Float.self, withOracle: false)
                let two = KernelRun(c, Float.self, workers: 2, withOracle: false)
                #expect(two.bits == one.bits, "case \(index)")
            }
            checkBFloat16(cases.last!, workers: 2, "decoding")
        }
    }

    /// The engine is taken for bf16 tensors alone, and not where memory is the limit.
    @Test(arguments: ["bf16-emulated", "amx-emulated"])
    func bfloat16ProductsAreForBFloat16TensorsAlone(_ emulated: String) {
        var random = SplitMix64(seed: 34)
        var c = AttentionCase(heads: 2, queries: 50, keys: 1000, size: 64)
        c.fill(&random)
        func forwardBits(_ c: AttentionCase, _ kernels: String) -> [Float] {
            rz_attention_set_kernels(kernels)
            defer { rz_attention_set_kernels(nil) }
            return KernelRun(c, Float.self, withOracle: false).acc
        }
        #expect(forwardBits(c, emulated) == forwardBits(c, "portable"))
        c.stored = .bfloat16
        #expect(forwardBits(c, emulated) != forwardBits(c, "portable"))
        c.queries = 2
        c.queryPositions = [998, 999]
        c.fill(&random)
        #expect(forwardBits(c, emulated) == forwardBits(c, "portable"))
        with(emulated) { #expect(rz_attention_multiply_adds(2, 1) > rz_attention_multiply_adds(4, 1)) }
    }

    // MARK: adversarial logits

    @Test(arguments: bfloat16Sets) func hugeLogitsStayFiniteAndRightInBFloat16(_ kernels: String) {
        for sign in [1.0, -1.0] {
            var random = SplitMix64(seed: 35)
            var c = AttentionCase(queries: 40, keys: 300, size: 16)
            c.fill(&random)
            // Key 5 has logit +-1e4 with every query, the others about 0: one-hot rows, or one key far away.
            for i in 0..<40 { c.q[i * 16] = 100 }
            for j in 0..<300 { c.k[j * 16] = 0 }
            c.k[5 * 16] = sign * 400
            c.stored = .bfloat16
            with(kernels) {
                for splits in [[0..<300], [0..<100, 100..<300], [100..<300, 0..<100]] {
                    let run = KernelRun(c, Float.self, splits: splits)
                    #expect(
                        [run.out, run.dq, run.dk, run.dv].joined().allSatisfy(\.isFinite)
                            && run.lse.allSatisfy(\.isFinite))
                    // Gradients of one-hot rows are differences of equal numbers of size 1e2.
                    #expect(run.rmsErrors().prefix(2).allSatisfy { $0.ratio <= 1 })
                    guard sign > 0 else { continue }
                    // The weight of a one-hot row is rounded to bf16, and so is what it is divided by.
                    let ownValue = run.out.indices.allSatisfy { i in
                        let v = Float(nearestBFloat16(c.v[5 * 16 + i % 16]))
                        return abs(run.out[i] - v) <= abs(v) * 0x1p-21
                    }
                    #expect(ownValue)
                }
            }
        }
    }

    @Test(arguments: bfloat16Sets) func rowsWithoutAKeyStayEmptyInBFloat16(_ kernels: String) {
        var random = SplitMix64(seed: 36)
        // The first 192 keys lie ahead of every query, the others of query 0...59: a first block that is all masked.
        var c = AttentionCase(queries: 100, keys: 264, size: 20, causal: true)
        c.queryPositions = (0..<100).map { Int64($0) }
        c.keyPositions = (1000..<1192 as Range<Int64>).map { $0 } + (60..<132 as Range<Int64>).map { $0 }
        c.stored = .bfloat16
        c.fill(&random)
        with(kernels) {
            let run = KernelRun(c, Float.self)
            #expect(run.rmsErrors().allSatisfy { $0.ratio <= 1 })
            for i in 0..<60 {
                #expect(run.m[i] == -.infinity && run.l[i] == 0)
                #expect((run.acc[(i * 20)..<(i * 20 + 20)] + run.dq[(i * 20)..<(i * 20 + 20)]).allSatisfy { $0 == 0 })
            }
            #expect((run.dk[..<(192 * 20)] + run.dv[..<(192 * 20)]).allSatisfy { $0 == 0 })
        }
    }

    @Test(arguments: bfloat16Sets) func notANumberReachesItsRowAndNoOtherInBFloat16(_ kernels: String) {
        var random = SplitMix64(seed: 37)
        var c = AttentionCase(queries: 50, keys: 130, size: 16)
        c.stored = .bfloat16
        c.fill(&random)
        c.q[7 * 16 + 3] = .nan
        with(kernels) {
            let run = KernelRun(c, Float.self, withOracle: false)
            for i in 0..<50 { #expect(run.out[i * 16].isNaN == (i == 7)) }
        }
    }
}
