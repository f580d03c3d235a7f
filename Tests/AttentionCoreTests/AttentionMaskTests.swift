import AttentionCore
import ConformanceKit
import Testing

@Suite struct AttentionMaskTests {
    @Test func windowReachesBackAndAheadInclusive() {
        let mask = AttentionMask(window: .init(back: 2, ahead: 1))
        #expect((0..<10).filter { mask.allows(query: 5, key: $0) } == [3, 4, 5, 6])
        let causal = AttentionMask(causal: true, window: .init(back: 2, ahead: 1))
        #expect((0..<10).filter { causal.allows(query: 5, key: $0) } == [3, 4, 5])
        #expect((0..<10).allSatisfy { AttentionMask.full.allows(query: 5, key: $0) })
    }

    private func positions(_ draw: inout Draw) -> Positions {
        Positions(
            runs: (0..<draw(0...3)).map { _ in .init(start: draw(0...40), count: draw(0...6), stride: draw(1...4)) })
    }

    /// A hop that is skipped may not hide a key.
    @Test func rulesOutNeverHidesAVisiblePair() {
        var draw = Draw(seed: 2)
        var ruledOut = 0
        for _ in 0..<3_000 {
            let mask = AttentionMask(
                causal: draw.chance(2),
                window: draw.chance(2) ? .init(back: draw(0...12), ahead: draw(0...12)) : nil)
            let (queries, keys) = (positions(&draw), positions(&draw))
            let visible = queries.indices.contains { i in keys.indices.contains { mask.allows(query: i, key: $0) } }
            if mask.rulesOut(queries: queries, keys: keys) {
                ruledOut += 1
                #expect(!visible, "\(mask) \(queries) \(keys)")
            }
        }
        #expect(ruledOut > 300, "the draw has to contain pairs that are skipped")
    }

    /// Half of the hops of a causal ring of contiguous shards cost nothing; that is decided here.
    @Test func blocksAfterTheQueriesAreRuledOut() {
        let (early, late) = (Positions.contiguous(count: 8), Positions.contiguous(from: 8, count: 8))
        #expect(AttentionMask.causal.rulesOut(queries: early, keys: late))
        #expect(!AttentionMask.causal.rulesOut(queries: late, keys: early))
        #expect(!AttentionMask.causal.rulesOut(queries: early, keys: early))
        let window = AttentionMask(window: .init(back: 3))
        #expect(window.rulesOut(queries: early, keys: late))
        let far = Positions.contiguous(from: 19, count: 4)
        #expect(window.rulesOut(queries: far, keys: late))
        #expect(!window.rulesOut(queries: .contiguous(from: 18, count: 4), keys: late))
        #expect(AttentionMask.full.rulesOut(queries: early, keys: .contiguous(count: 0)))
        #expect(AttentionMask.full.rulesOut(queries: .contiguous(count: 0), keys: early))
    }

    @Test func dropoutKeepsTheGivenShare() {
        for probability in [0, 0.1, 0.5, 0.9] {
            let dropout = AttentionMask.Dropout(probability: probability, seed: 77)
            var dropped = 0
            for query in 0..<200 {
                for key in 0..<200 where dropout.drops(batch: 0, head: 1, query: query, key: key) { dropped += 1 }
            }
            // Five standard deviations of 40,000 draws.
            let tolerated = 5 * (probability * (1 - probability) / 40_000).squareRoot()
            #expect(abs(Double(dropped) / 40_000 - probability) <= tolerated, "\(dropped) of 40000 at \(probability)")
        }
    }

    /// Every coordinate counts, beyond 32 bits too.
    @Test func dropoutDependsOnEveryCoordinate() {
        func pattern(seed: UInt64 = 1, batch: Int = 0, head: Int = 0, query: Int = 0, key: Int = 0) -> [Bool] {
            (0..<128).map {
                AttentionMask.Dropout(probability: 0.5, seed: seed)
                    .drops(batch: batch, head: head, query: query, key: key + $0)
            }
        }
        let patterns = [
            pattern(), pattern(seed: 2), pattern(seed: 1 + 1 << 32), pattern(batch: 1), pattern(head: 1),
            pattern(query: 1), pattern(query: 1 << 32), pattern(key: 1 << 32), pattern(key: 128),
            pattern(batch: 1, head: 1), pattern(head: 1, query: 1),
        ]
        #expect(Set(patterns).count == patterns.count)
    }
}
