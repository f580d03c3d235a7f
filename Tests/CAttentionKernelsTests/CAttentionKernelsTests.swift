import CAttentionKernels
import ConformanceKit
import Foundation
import Testing

private func runnable(_ names: [String]) -> [String] {
    defer { rz_attention_set_kernels(nil) }
    return names.filter { rz_attention_set_kernels($0) }
}

/// The kernel sets this machine can run that differ in float32 and float64.
let kernelSets = runnable(["avx512", "avx2", "portable"])
/// Those that multiply bf16 numbers.
let bfloat16Sets = runnable(["amx", "avx512bf16", "bf16-emulated", "amx-emulated"])

/// Serialized: the chosen kernel set belongs to the process.
@Suite(.serialized) struct CAttentionKernelsTests {
    /// Checks all of a case against the oracle.
    private func check<Real: KernelReal>(
        _ c: AttentionCase, _ type: Real.Type, splits: [Range<Int>]? = nil, workers: Int = 1,
        products: rz_attention_products = .init(), _ note: String = "", location: SourceLocation = #_sourceLocation
    ) {
        let worst = KernelRun(c, type, splits: splits, workers: workers, products: products).worstError()
        #expect(
            worst.ratio <= 1, "\(worst.name) of \(type) \(note), kernels \(String(cString: rz_attention_kernels()))",
            sourceLocation: location)
    }

    @Test(arguments: kernelSets) func randomProblemsEqualTheOracle(_ kernels: String) {
        #expect(rz_attention_set_kernels(kernels))
        defer { rz_attention_set_kernels(nil) }
        for seed in 0..<60 as Range<UInt64> {
            check(.random(seed), Float.self, "seed \(seed)")
            check(.random(seed, stored: .float64), Double.self, "seed \(seed)")
        }
    }

    @Test(arguments: kernelSets) func everyHeadSizeEqualsTheOracle(_ kernels: String) {
        #expect(rz_attention_set_kernels(kernels))
        defer { rz_attention_set_kernels(nil) }
        var random = SplitMix64(seed: 7)
        for size in [1, 2, 5, 15, 16, 17, 31, 48, 64, 65, 80, 96, 128, 200, 256] {
            for (queries, keys, heads) in [(1, 1, 1), (7, 129, 2), (201, 257, 1), (97, 128, 6), (13, 145, 1)] {
                var c = AttentionCase(heads: heads, queries: queries, keys: keys, size: size)
                c.causal = size % 2 == 1
                c.fill(&random)
                check(c, Float.self, "\(size), \(queries) x \(keys)")
                c.stored = .float64
                check(c, Double.self, "\(size), \(queries) x \(keys)")
            }
        }
    }

    @Test(arguments: Stored.allCases, [false, true])
    func everyStorageAndLayoutEqualsTheOracle(_ stored: Stored, _ tokensFirst: Bool) {
        #expect(rz_attention_set_kernels(kernelSets[0]))  // which widens bf16
        defer { rz_attention_set_kernels(nil) }
        var random = SplitMix64(seed: 8)
        var c = AttentionCase(batch: 2, heads: 6, kvHeads: 2, queries: 75, keys: 150, size: 40, causal: true)
        c.stored = stored
        c.tokensFirst = tokensFirst
        c.fill(&random)
        c.q[0] = 0x1p-20  // subnormal as a half
        c.k[3] = -0x1.8p-24
        check(c, Float.self, "\(stored)")
        if stored == .float64 { check(c, Double.self) }
    }

    @Test(arguments: kernelSets) func everyMaskTermAloneEqualsTheOracle(_ kernels: String) {
        #expect(rz_attention_set_kernels(kernels))
        defer { rz_attention_set_kernels(nil) }
        var random = SplitMix64(seed: 9)
        var plain = AttentionCase(batch: 2, heads: 2, kvHeads: 1, queries: 260, keys: 300, size: 24)
        plain.fill(&random)
        for (name, c) in plain.withEachMaskTerm(&random) {
            check(c, Float.self, name)
            check(c, Double.self, name)
            check(c, Float.self, products: .plainLoops, name + " with external products")
        }
    }

    @Test func externalProductsEqualTheOracle() {
        for seed in 100..<130 as Range<UInt64> {
            check(.random(seed), Float.self, products: .plainLoops, "seed \(seed)")
            check(.random(seed, stored: .float64), Double.self, products: .plainLoops, "seed \(seed)")
        }
    }

    @Test(arguments: kernelSets) func carriedStateEqualsOneCall(_ kernels: String) {
        #expect(rz_attention_set_kernels(kernels))
        defer { rz_attention_set_kernels(nil) }
        for seed in 200..<230 as Range<UInt64> {
            var random = SplitMix64(seed: seed)
            let c = AttentionCase.random(seed)
            var cuts = Set([0, c.keys])
            for _ in 0..<Int.random(in: 1...6, using: &random) {
                cuts.insert(Int.random(in: 0...c.keys, using: &random))
            }
            let ends = cuts.sorted()
            let splits = zip(ends, ends.dropFirst()).map { $0..<$1 }.shuffled(using: &random)
            check(c, Float.self, splits: splits, "seed \(seed), \(splits)")
        }
    }

    @Test(arguments: [1.0, 6]) func manySplitsKeepTheErrorOfOne(_ spread: Double) {
        func squaredErrors(_ splits: Int) -> Double {
            (0..<8 as Range<UInt64>).reduce(0) { sum, seed in
                var random = SplitMix64(seed: 1000 + seed)
                var c = AttentionCase(queries: 64, keys: 640, size: 32, spread: spread, causal: true)
                c.fill(&random)
                let run = KernelRun(
                    c, Float.self, splits: (0..<splits).map { (640 * $0 / splits)..<(640 * ($0 + 1) / splits) })
                return zip(run.out, run.oracle!.out).reduce(sum) { $0 + ($1.1 - Double($1.0)) * ($1.1 - Double($1.0)) }
            }
        }
        // A ring's bar is RMS error(N) / error(1) <= 1.5 up to N = 64; the kernels' own share is measured at 1.03.
        let one = squaredErrors(1)
        for splits in [4, 64] { #expect((squaredErrors(splits) / one).squareRoot() <= 1.2, "\(splits) splits") }
    }

    @Test(arguments: kernelSets) func anyNumberOfWorkersGivesTheSameBits(_ kernels: String) {
        #expect(rz_attention_set_kernels(kernels))
        defer { rz_attention_set_kernels(nil) }
        var cases = (300..<312 as Range<UInt64>).map { AttentionCase.random($0) }
        for (queries, keys) in [(700, 900), (1, 3000), (4, 5000)] {
            var random = SplitMix64(seed: 11)
            var c = AttentionCase(heads: 2, kvHeads: 1, queries: queries, keys: keys, size: 64, causal: true)
            c.fill(&random)
            cases.append(c)
        }
        // Bias gradients with 2 batches, 4 heads and several blocks of queries and keys adding to one element, in every way.
        for strides in [[0, 0, 700, 1], [0, 0, 0, 1], [0, 300, 1, 0], [700, 0, 1, 0], [0, 0, 0, 0]] as [[Int64]] {
            var random = SplitMix64(seed: 24)
            var c = AttentionCase(batch: 2, heads: 4, kvHeads: 2, queries: 300, keys: 700, size: 16, causal: true)
            c.fill(&random)
            c.biasStrides = strides
            c.bias = random.normals(300 * 700)
            cases.append(c)
        }
        for (index, c) in cases.enumerated() {
            let one = KernelRun(c, Float.self, withOracle: false)
            for workers in [2, 3] {
                let many = KernelRun(c, Float.self, workers: workers, withOracle: false)
                #expect(many.bits == one.bits, "case \(index) with \(workers) workers")
                #expect(many.forwardPairs == one.forwardPairs && many.backwardPairs == one.backwardPairs)
            }
        }
    }

    @Test func decodingAgainstALongCacheEqualsTheOracle() {
        for (queries, keys, heads, kvHeads) in [(1, 4000, 1, 1), (1, 2500, 8, 2), (16, 3000, 2, 1), (3, 1029, 4, 4)] {
            var random = SplitMix64(seed: 12)
            var c = AttentionCase(heads: heads, kvHeads: kvHeads, queries: queries, keys: keys, size: 64, causal: true)
            c.fill(&random)
            check(c, Float.self, workers: 2, "\(queries) x \(keys)")
            c.back = 700  // some pieces of the keys are all hidden
            check(c, Float.self, splits: [1000..<keys, 0..<1000], "window")
        }
    }

    @Test(arguments: kernelSets) func fewRowsAgainstManyKeysEqualTheOracle(_ kernels: String) {
        #expect(rz_attention_set_kernels(kernels))
        defer { rz_attention_set_kernels(nil) }
        for seed in 400..<424 as Range<UInt64> {
            var random = SplitMix64(seed: seed)
            // At most 32 rows (2 heads may share keys) and at least 8 blocks of keys: K and V are not packed.
            var c = AttentionCase(
                batch: 2, heads: 4, kvHeads: random.coin() ? 2 : 4,
                queries: Int.random(in: 1...(random.coin() ? 4 : 16), using: &random),
                keys: Int.random(in: 1024...1200, using: &random), size: [24, 64, 128].randomElement(using: &random)!)
            c.stored = Stored.allCases.randomElement(using: &random)!
            c.tokensFirst = random.coin()
            c.causal = random.coin()
            if random.coin() { c.back = Int64.random(in: 0...700, using: &random) }
            if random.coin(0.3) {
                c.keyDocuments = (0..<c.keys).map { Int32($0 / 300) }
                c.queryDocuments = Array(c.keyDocuments!.suffix(c.queries))
            }
            if random.coin(0.3) { c.keyPositions = (0..<c.keys).map { Int64($0) }.shuffled(using: &random) }
            if random.coin(0.3) { c.slopes = [0.5, 0.25, 0.125, 0.0625] }
            if random.coin(0.3) { c.softCap = 5 }
            c.fill(&random)
            if random.coin(0.3) { c.addBias(&random) }
            if random.coin(0.3) { (c.dropout, c.seed) = (0.2, random.next()) }
            check(c, Float.self, workers: 2, "seed \(seed)")
            c.stored = .float64
            check(c, Double.self, "seed \(seed)")
        }
    }

    /// 1, 2, 3 and 4 rows have loops of their own, and 5 are two of those: whole groups of keys where they lie, a last one that is
    /// copied, rows of 16, 8, 4, 2 and 1 vectors.
    @Test(arguments: kernelSets, 1...5)
    func aRowOfEverySizeAgainstManyKeysEqualsTheOracle(_ kernels: String, _ rows: Int) {
        #expect(rz_attention_set_kernels(kernels))
        defer { rz_attention_set_kernels(nil) }
        for (index, size) in [16, 24, 48, 64, 80, 96, 128, 256].enumerated() {
            var random = SplitMix64(seed: 500 + UInt64(index))
            for back in [-1, 333] as [Int64] {
                var c = AttentionCase(
                    batch: 2, heads: 2, kvHeads: 2, queries: rows, keys: Int.random(in: 1024...1200, using: &random),
                    size: size, causal: true)
                c.back = back
                c.tokensFirst = random.coin()
                for stored in Stored.allCases {
                    c.stored = stored
                    c.fill(&random)
                    check(c, Float.self, workers: 2, "size \(size), \(stored), window \(back), \(c.keys) keys")
                }
                c.stored = .float64
                check(c, Double.self, "size \(size), window \(back), \(c.keys) keys")
            }
        }
    }

    // MARK: adversarial logits

    @Test(arguments: kernelSets) func hugeLogitsStayFiniteAndRight(_ kernels: String) {
        #expect(rz_attention_set_kernels(kernels))
        defer { rz_attention_set_kernels(nil) }
        for sign in [1.0, -1.0] {
            var random = SplitMix64(seed: 13)
            var c = AttentionCase(queries: 40, keys: 300, size: 16)
            c.fill(&random)
            // Key 5 has logit +-1e4 with every query, the others about 0: one-hot rows, or one key far away.
            for i in 0..<40 { c.q[i * 16] = 100 }
            for j in 0..<300 { c.k[j * 16] = 0 }
            c.k[5 * 16] = sign * 400
            for splits in [[0..<300], [0..<100, 100..<300], [100..<300, 0..<100]] {
                let run = KernelRun(c, Float.self, splits: splits)
                let oracle = run.oracle!
                #expect(
                    [run.out, run.dq, run.dk, run.dv].joined().allSatisfy(\.isFinite) && run.lse.allSatisfy(\.isFinite))
                #expect(zip(run.out, oracle.out).allSatisfy { abs(Double($0) - $1) < 1e-4 })
                if sign > 0 {  // a one-hot row is the value of its key, but for the roundings of (w v) / w
                    let ownValue = run.out.indices.allSatisfy { i in
                        let v = Float(c.v[5 * 16 + i % 16])
                        return abs(run.out[i] - v) <= abs(v) * 0x1p-22
                    }
                    #expect(ownValue)
                }
            }
        }
    }

    @Test func blocksFarApartMergeExactly() {
        // Rows whose blocks have log-sum-exps 90, 200 and 1000 apart: the smaller side vanishes, nothing overflows.
        for gap in [90.0, 200, 1000] {
            var random = SplitMix64(seed: 14)
            var c = AttentionCase(queries: 20, keys: 256, size: 8)
            c.fill(&random)
            for i in 0..<20 { c.q[i * 8] = 1 / c.scale }
            for j in 0..<256 { c.k[j * 8] = j < 128 ? gap : 0 }
            for splits in [[0..<128, 128..<256], [128..<256, 0..<128]] {
                let run = KernelRun(c, Float.self, splits: splits)
                #expect((run.out + run.dq).allSatisfy(\.isFinite) && run.lse.allSatisfy(\.isFinite))
                #expect(run.worstError().ratio < 1, "gap \(gap)")
            }
        }
    }

    @Test(arguments: [1e4, -1e4, 2777]) func anOffsetOfAllLogitsCancelsOverSplits(_ offset: Double) {
        // All logits of a row are the same number, so out is the mean of the values, whatever the cuts.
        var random = SplitMix64(seed: 22)
        var c = AttentionCase(queries: 12, keys: 400, size: 8)
        c.fill(&random)
        for i in c.q.indices { c.q[i] = i % 8 == 0 ? offset / c.scale : 0 }
        for i in c.k.indices { c.k[i] = 1 }
        let run = KernelRun(c, Float.self, splits: [0..<50, 50..<51, 51..<200, 200..<400])
        #expect(zip(run.out, run.oracle!.out).allSatisfy { abs(Double($0) - $1) < 2e-6 })
    }

    /// A library rounds a logit differently in products of another shape; P = exp(S - lse) must not see two roundings of one S.
    @Test func bothDirectionsAskForLogitsInTheSameShapes() {
        var random = SplitMix64(seed: 20)
        for (heads, kvHeads, queries) in [(4, 1, 26), (2, 2, 500), (8, 2, 97)] {
            var c = AttentionCase(heads: heads, kvHeads: kvHeads, queries: queries, keys: 150, size: 8)
            c.fill(&random)
            rowsOfLogits.withLock { $0 = [] }
            let run = KernelRun(c, Float.self, products: .recording, withOracle: false)
            let rows = rowsOfLogits.withLock { $0 }
            let forward = Set(rows.prefix(Int(run.forwardPairs)))
            let backward = Set(rows.dropFirst(Int(run.forwardPairs)))
            #expect(!forward.isEmpty && forward == backward, "\(heads) heads, \(queries) queries")
        }
    }

    @Test(arguments: kernelSets) func rowsWithoutAKeyStayEmpty(_ kernels: String) {
        #expect(rz_attention_set_kernels(kernels))
        defer { rz_attention_set_kernels(nil) }
        for products in [rz_attention_products(), .plainLoops] {
            var random = SplitMix64(seed: 15)
            // The first keys lie ahead of every query, the others of query 0...59: a first block that is all masked.
            let ahead = Int(rz_attention_key_block(MemoryLayout<Float>.size))
            var c = AttentionCase(heads: 2, queries: 100, keys: ahead + 72, size: 20, causal: true)
            c.queryPositions = (0..<100).map { Int64($0) }
            c.keyPositions = (0..<ahead).map { 1000 + Int64($0) } + (60..<132 as Range<Int64>).map { $0 }
            c.fill(&random)
            let run = KernelRun(c, Float.self, products: products)
            #expect(run.worstError().ratio <= 1)
            for h in 0..<2 {
                for i in 0..<60 {
                    let row = h * 100 + i
                    #expect(run.m[row] == -.infinity && run.l[row] == 0)
                    let elements = (row * 20)..<(row * 20 + 20)
                    #expect((run.acc[elements] + run.dq[elements]).allSatisfy { $0 == 0 })
                }
            }
            #expect((run.dk[..<(ahead * 20)] + run.dv[..<(ahead * 20)]).allSatisfy { $0 == 0 })
        }
    }

    @Test(arguments: kernelSets) func aBiasOfMinusInfinityMasks(_ kernels: String) {
        #expect(rz_attention_set_kernels(kernels))
        defer { rz_attention_set_kernels(nil) }
        var random = SplitMix64(seed: 16)
        var c = AttentionCase(queries: 30, keys: 140, size: 12)
        c.fill(&random)
        c.biasStrides = [0, 0, 140, 1]
        c.bias = random.normals(30 * 140)
        for i in 0..<30 { for j in 0..<140 where i < 3 || (i + j) % 3 == 0 { c.bias![i * 140 + j] = -.infinity } }
        let run = KernelRun(c, Float.self)
        #expect(run.worstError().ratio <= 1)
        #expect(run.lse[0] == -.infinity && run.lse[3] > -.infinity)
    }

    @Test(arguments: kernelSets) func notANumberReachesItsRowAndNoOther(_ kernels: String) {
        #expect(rz_attention_set_kernels(kernels))
        defer { rz_attention_set_kernels(nil) }
        var random = SplitMix64(seed: 17)
        var c = AttentionCase(queries: 50, keys: 130, size: 16)
        c.fill(&random)
        c.q[7 * 16 + 3] = .nan
        let run = KernelRun(c, Float.self, withOracle: false)
        for i in 0..<50 { #expect(run.out[i * 16].isNaN == (i == 7)) }
    }

    // MARK: skipping

    /// Pairs of blocks with a visible key, for positions 0, 1, 2, ...
    private func pairsWithAVisibleKey(_ c: AttentionCase, queryBlock: Int) -> Int64 {
        var pairs: Int64 = 0
        let keyBlock = Int(rz_attention_key_block(MemoryLayout<Float>.size))
        for b in 0..<c.batch {
            for start in stride(from: 0, to: c.queries, by: queryBlock) {
                for first in stride(from: 0, to: c.keys, by: keyBlock) {
                    let visible = (start..<min(c.queries, start + queryBlock)).contains { i in
                        (first..<min(c.keys, first + keyBlock)).contains { c.sees(b, i, $0) }
                    }
                    if visible { pairs += Int64(c.kvHeads) }
                }
            }
        }
        return pairs
    }

    @Test func onlyPairsWithAVisibleKeyAreComputed() {
        var random = SplitMix64(seed: 18)
        var plain = AttentionCase(batch: 2, heads: 4, kvHeads: 2, queries: 1000, keys: 1000, size: 4)
        plain.fill(&random)
        var cases = [plain]
        var c = plain
        c.causal = true
        cases.append(c)
        c.back = 100
        cases.append(c)
        c = plain
        (c.back, c.ahead) = (0, 150)
        cases.append(c)
        c = plain
        c.documentsPerBatch = true
        c.queryDocuments = (0..<2000).map { Int32($0 % 1000 / ($0 < 1000 ? 200 : 390)) }
        c.keyDocuments = c.queryDocuments
        cases.append(c)
        for c in cases {
            let run = KernelRun(c, Float.self, withOracle: false)
            #expect(run.forwardPairs == pairsWithAVisibleKey(c, queryBlock: 96))  // 192 rows of 2 heads
            #expect(run.backwardPairs == pairsWithAVisibleKey(c, queryBlock: 48))
        }
    }

    // MARK: dropout

    @Test func dropoutHashIsTheOneInTheHeader() {
        var random = SplitMix64(seed: 19)
        for _ in 0..<2000 {
            let seed = random.next()
            let query = Int64(random.next() >> UInt64.random(in: 2...60, using: &random))
            let key = Int64(random.next() >> UInt64.random(in: 2...60, using: &random))
            let batch = Int.random(in: 0..<64, using: &random)
            let head = Int.random(in: 0..<64, using: &random)
            #expect(
                rz_attention_dropout_keeps(seed, Int64(batch), Int64(head), query, key, 0.4)
                    == dropoutKeeps(seed, batch, head, query, key, 0.4))
        }
    }

    @Test func dropoutDropsItsShareOfEveryRowAndColumn() {
        let size = 600
        var rows = [Int](repeating: 0, count: size)
        var columns = rows
        var repeated = 0
        for i in 0..<size {
            for j in 0..<size where !rz_attention_dropout_keeps(42, 0, 3, Int64(i), Int64(j), 0.25) {
                rows[i] += 1
                columns[j] += 1
                if !rz_attention_dropout_keeps(42, 0, 3, Int64(i + 1), Int64(j + 1), 0.25) { repeated += 1 }
            }
        }
        // Six standard deviations of a binomial count with p = 1/4.
        let bound = 6 * (Double(size) * 0.25 * 0.75).squareRoot()
        for count in rows + columns { #expect(abs(Double(count) - Double(size) / 4) < bound) }
        let pairs = Double(size * size)
        #expect(abs(Double(repeated) - pairs / 16) < 6 * (pairs / 16).squareRoot())  // diagonals are independent
    }

    // MARK: gradients

    @Test func gradientsAreDerivatives() {
        var random = SplitMix64(seed: 20)
        var c = AttentionCase(batch: 1, heads: 2, kvHeads: 1, queries: 5, keys: 9, size: 3, causal: true)
        c.stored = .float64
        c.back = 6
        c.slopes = [0.25, 0.125]
        c.softCap = 1.5
        c.queryDocuments = [0, 0, 0, 1, 1]
        c.keyDocuments = [0, 0, 0, 0, 0, 0, 0, 1, 1]
        (c.dropout, c.seed) = (0.3, 99)
        c.fill(&random)
        c.biasStrides = [0, 45, 9, 1]
        c.bias = random.normals(90)
        let run = KernelRun(c, Double.self, withOracle: false)
        func loss(_ c: AttentionCase) -> Double {
            zip(KernelRun(c, Double.self, withOracle: false).out, c.dout).reduce(0) { $0 + $1.0 * $1.1 }
        }
        func compare(_ gradient: [Double], _ name: String, _ nudge: (inout AttentionCase, Int, Double) -> Void) {
            for index in gradient.indices {
                var (up, down) = (c, c)
                nudge(&up, index, 1e-5)
                nudge(&down, index, -1e-5)
                let slope = (loss(up) - loss(down)) / 2e-5
                #expect(abs(slope - gradient[index]) < 1e-8, "\(name) \(index)")
            }
        }
        compare(run.dq, "dq") { $0.q[$1] += $2 }
        compare(run.dk, "dk") { $0.k[$1] += $2 }
        compare(run.dv, "dv") { $0.v[$1] += $2 }
        compare(run.dbias, "dbias") { $0.bias![$1] += $2 }
    }

    // MARK: the exponential

    @Test(arguments: kernelSets) func exponentialsAreWithinTwoUlp(_ kernels: String) {
        #expect(rz_attention_set_kernels(kernels))
        defer { rz_attention_set_kernels(nil) }
        var random = SplitMix64(seed: 23)
        let count = 1 << 20
        let x = (0..<count).map { Float($0) * (127 + 126) / Float(count) - 126 + Float(random.normal()) * 1e-3 }
            .map { max($0, -126) }
        var y = [Float](repeating: 0, count: count)
        rz_attention_exp2_f32(x, &y, Int64(count))
        let worst = zip(x, y).reduce(0.0) { worst, pair in
            let exact = exp2(Double(pair.0))
            return max(worst, abs(Double(pair.1) - exact) / Double(Float(exact).ulp))
        }
        #expect(worst <= 2, "\(worst) ulp in float32")
        let wide = x.map { Double($0) * 8 }
        var powers = [Double](repeating: 0, count: count)
        rz_attention_exp2_f64(wide, &powers, Int64(count))
        // The library's exp2 is the reference, itself within half an ulp or so.
        let furthest = zip(wide, powers).reduce(0.0) { max($0, abs($1.1 - exp2($1.0)) / exp2($1.0).ulp) }
        #expect(furthest <= 2, "\(furthest) ulp in float64")
    }

    @Test(arguments: kernelSets) func exponentialsOfHiddenKeysAreZero(_ kernels: String) {
        #expect(rz_attention_set_kernels(kernels))
        defer { rz_attention_set_kernels(nil) }
        let x: [Float] = [-160, -1000, -3e38, -.infinity, .nan, 0]
        var y = [Float](repeating: 5, count: x.count)
        rz_attention_exp2_f32(x, &y, Int64(x.count))
        #expect(y[..<4].allSatisfy { $0 == 0 } && y[4].isNaN && y[5] == 1)
    }

    @Test(arguments: kernelSets) func multiplyAddsAreCounted(_ kernels: String) {
        #expect(rz_attention_set_kernels(kernels))
        defer { rz_attention_set_kernels(nil) }
        for bytes in [2, 4, 8] {
            let one = rz_attention_multiply_adds(bytes, 1)
            // At least 8 chains of at least two lanes, 2 operations each.
            #expect(one >= 32 && rz_attention_multiply_adds(bytes, 1000) == 1000 * one)
        }
        #expect(rz_attention_multiply_adds(2, 1) == rz_attention_multiply_adds(4, 1), "bf16 is widened")
    }

    // MARK: edges

    @Test func noQueriesOrNoKeysChangeNothing() {
        for (queries, keys) in [(0, 10), (10, 0), (0, 0)] {
            var random = SplitMix64(seed: 21)
            var c = AttentionCase(queries: queries, keys: keys, size: 4)
            c.fill(&random)
            let run = KernelRun(c, Float.self)
            #expect(run.forwardPairs == 0 && run.backwardPairs == 0)
            #expect(run.m.allSatisfy { $0 == -.infinity } && run.dq.allSatisfy { $0 == 0 })
        }
    }

    @Test func unknownKernelsAreRefusedAndChangeNothing() {
        let before = String(cString: rz_attention_kernels())
        #expect(!rz_attention_set_kernels("abacus"))
        #expect(String(cString: rz_attention_kernels()) == before)
        for name in kernelSets + bfloat16Sets {
            #expect(rz_attention_set_kernels(name))
            #expect(String(cString: rz_attention_kernels()) == name)
        }
        rz_attention_set_kernels(nil)
        let best = String(cString: rz_attention_kernels())
        #expect(best == kernelSets[0] || bfloat16Sets.contains(best) && !best.hasSuffix("emulated"))
    }

    @Test func workspacePerWorkerDoesNotDependOnTheLength() {
        func bytes(_ tokens: Int64, _ workers: Int64, backward: Bool, softCap: Double) -> Int {
            var p = rz_attention_problem()
            (p.batch, p.heads, p.kv_heads, p.query_count, p.key_count, p.head_size) = (1, 8, 2, tokens, tokens, 128)
            p.soft_cap = softCap
            return backward
                ? rz_attention_backward_workspace(&p, 4, workers) : rz_attention_forward_workspace(&p, 4, workers)
        }
        for (backward, softCap) in [(false, 0.0), (true, 0), (true, 30)] {
            func ofAWorker(_ tokens: Int64) -> Int {
                bytes(tokens, 2, backward: backward, softCap: softCap)
                    - bytes(tokens, 1, backward: backward, softCap: softCap)
            }
            let (short, long) = (ofAWorker(4096), ofAWorker(1 << 20))
            #expect(short == long && short < 2 << 20, "\(short) and \(long) bytes, soft cap \(softCap)")
        }
    }
}
