import AttentionCore
import ConformanceKit
import Foundation
import Testing

@Suite struct PositionsTests {
    @Test func runsSpellOutTheirIndicesInOrder() {
        let positions = Positions(runs: [.init(start: 7, count: 3), .init(start: 0, count: 2, stride: 4)])
        #expect(positions.indices == [7, 8, 9, 0, 4])
        #expect(positions.count == 5)
        #expect(Positions.contiguous(from: 3, count: 2).indices == [3, 4])
    }

    @Test func extremesAreThoseOfTheIndices() {
        var draw = Draw(seed: 1)
        for _ in 0..<200 {
            let positions = Positions(
                runs: (0..<draw(0...4)).map { _ in
                    .init(start: draw(0...50), count: draw(0...6), stride: draw(1...5))
                })
            #expect(positions.count == positions.indices.count)
            #expect(positions.smallest == positions.indices.min())
            #expect(positions.largest == positions.indices.max())
        }
    }

    /// Two descriptions of nothing are equal, so that an empty shard looks the same whichever layout made it.
    @Test func emptyRunsLeaveNoTrace() {
        let empty = Positions(runs: [.init(start: 5, count: 0), .init(start: 2, count: 0, stride: 3)])
        #expect(empty == Positions(runs: []))
        #expect(empty.smallest == nil && empty.largest == nil && empty.indices.isEmpty)
    }

    @Test func codingKeepsThem() throws {
        let positions = Positions(runs: [.init(start: 7, count: 3), .init(start: 1, count: 2, stride: 4)])
        let data = try JSONEncoder().encode(positions)
        #expect(try JSONDecoder().decode(Positions.self, from: data) == positions)
    }
}
