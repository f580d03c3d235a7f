import AttentionCore
import ConformanceKit
import TensorCore
import Testing

@Suite struct VisiblePairsTests {
    private func positions(_ draw: inout Draw) -> Positions {
        Positions(
            runs: (0..<draw(0...3)).map { _ in .init(start: draw(0...40), count: draw(0...6), stride: draw(1...4)) })
    }

    /// The count that rates are computed from is the count of pairs that the mask's own definition allows.
    @Test func visiblePairsAreThoseTheMaskAllows() {
        var draw = Draw(seed: 5)
        let device = CPUDevice(threads: 1)
        var seen = 0
        for _ in 0..<500 {
            let (queries, keys) = (positions(&draw), positions(&draw))
            var mask = AttentionMask(
                causal: draw.chance(2),
                window: draw.chance(2) ? .init(back: draw(0...12), ahead: draw(0...12)) : nil)
            let batch = draw(1...2)
            let rows = draw.chance(2) ? 1 : batch
            let ofQueries = (0..<rows * queries.count).map { _ in Int32(draw(0...2)) }
            let ofKeys = (0..<rows * keys.count).map { _ in Int32(draw(0...2)) }
            let hasDocuments = draw.chance(2)
            if hasDocuments {
                mask.documents = .init(
                    queries: Tensor(ofQueries, [rows, queries.count], on: device),
                    keys: Tensor(ofKeys, [rows, keys.count], on: device))
            }
            var expected = 0
            for b in 0..<batch {
                let row = rows == 1 ? 0 : b
                for (r, i) in queries.indices.enumerated() {
                    for (c, j) in keys.indices.enumerated() where mask.allows(query: i, key: j) {
                        let same = ofQueries[row * queries.count + r] == ofKeys[row * keys.count + c]
                        if !hasDocuments || same { expected += 1 }
                    }
                }
            }
            #expect(mask.visiblePairs(queries: queries, keys: keys, batch: batch) == expected, "\(mask)")
            seen += expected
        }
        #expect(seen > 1_000, "the draw has to contain visible pairs")
    }

    /// On a rehearsal no document can be read: there they are as long as the device says.
    @Test func rehearsedDocumentsAreThoseOfPositions() {
        var draw = Draw(seed: 6)
        let device = CPUDevice(threads: 1)
        var seen = 0
        for _ in 0..<500 {
            let (queries, keys, length) = (positions(&draw), positions(&draw), draw(1...50))
            let speed = DeviceSpeed(products: 1, attention: 1, memory: 1, launch: 0)
            let rehearsal = RehearsalDevice(speed: speed, workers: 1, documentLength: length)
            var mask = AttentionMask(
                causal: draw.chance(2),
                window: draw.chance(2) ? .init(back: draw(0...12), ahead: draw(0...12)) : nil)
            func pairs(_ device: any Device, _ document: (Int) -> Int32) -> Int {
                func tensor(_ positions: Positions) -> Tensor {
                    Tensor(positions.indices.map(document), [1, positions.count], on: device)
                }
                mask.documents = .init(queries: tensor(queries), keys: tensor(keys))
                return mask.visiblePairs(queries: queries, keys: keys, batch: 2)
            }
            let expected = pairs(device) { Int32($0 / length) }
            #expect(pairs(rehearsal) { _ in 0 } == expected, "\(mask), documents of \(length)")
            seen += expected
        }
        #expect(seen > 1_000, "the draw has to contain visible pairs")
    }
}
