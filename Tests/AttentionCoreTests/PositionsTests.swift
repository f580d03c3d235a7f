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

    @Test func rowsAndShiftsAreThoseOfTheIndices() {
        var draw = Draw(seed: 2)
        for _ in 0..<200 {
            let positions = Positions(
                runs: (0..<draw(0...4)).map { _ in
                    .init(start: draw(0...50), count: draw(0...6), stride: draw(1...5))
                })
            let end = draw(0...positions.count)
            let range = draw(0...end)..<end
            #expect(positions.rows(range).indices == Array(positions.indices[range]))
            #expect(positions.shifted(by: 7).indices == positions.indices.map { $0 + 7 })
        }
    }

    @Test func appendedRowsFollow() {
        var draw = Draw(seed: 3)
        for _ in 0..<500 {
            func some() -> Positions {
                Positions(
                    runs: (0..<draw(0...3)).map { _ in
                        .init(start: draw(0...20), count: draw(0...3), stride: draw(1...4))
                    })
            }
            let (first, second) = (some(), some())
            var both = first
            both.append(second)
            #expect(both.indices == first.indices + second.indices)
        }
    }

    /// Every third token of 300, as a rank of three gets them in decoding, after a piece of a prompt.
    @Test func whatGrowsTokenByTokenStaysFewRuns() {
        var positions = Positions.contiguous(from: 100, count: 50)
        for token in stride(from: 301, to: 600, by: 3) { positions.append(.contiguous(from: token, count: 1)) }
        #expect(positions.runs == [.init(start: 100, count: 50), .init(start: 301, count: 100, stride: 3)])
        var whole = Positions(runs: [])
        for token in 0..<40 { whole.append(.contiguous(from: token, count: 1)) }
        #expect(whole == .contiguous(count: 40))
    }

    @Test func codingKeepsThem() throws {
        let positions = Positions(runs: [.init(start: 7, count: 3), .init(start: 1, count: 2, stride: 4)])
        let data = try JSONEncoder().encode(positions)
        #expect(try JSONDecoder().decode(Positions.self, from: data) == positions)
    }
}
