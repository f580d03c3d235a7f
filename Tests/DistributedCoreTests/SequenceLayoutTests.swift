import AttentionCore
import DistributedCore
import TensorCore
import Testing

@Suite struct SequenceLayoutTests {
    private static func shards(_ layout: SequenceLayout, _ length: Int, _ size: Int) -> [Positions] {
        (0..<size).map { layout.positions(length: length, rank: $0, size: size) }
    }

    @Test(arguments: SequenceLayout.allCases)
    func everyTokenIsHeldExactlyOnce(_ layout: SequenceLayout) {
        for length in 0...40 {
            for size in 1...9 {
                let held = Self.shards(layout, length, size).flatMap(\.indices)
                #expect(held.sorted() == Array(0..<length), "length \(length), \(size) ranks")
            }
        }
    }

    /// No rank holds more than one piece's rounding beyond its share.
    @Test(arguments: SequenceLayout.allCases)
    func sharesAreEven(_ layout: SequenceLayout) {
        for length in 0...40 {
            for size in 1...9 {
                let counts = Self.shards(layout, length, size).map(\.count)
                let tolerated = layout == .zigzag ? 2 : 1
                #expect(counts.max()! - counts.min()! <= tolerated, "length \(length), \(size) ranks: \(counts)")
            }
        }
    }

    @Test(arguments: SequenceLayout.allCases)
    func unshardIsTheInverseOfShard(_ layout: SequenceLayout) {
        let device = CPUDevice(threads: 1)
        for length in [0, 1, 2, 3, 7, 16, 31, 40] {
            for size in [1, 2, 3, 5, 9] {
                for axis in [0, 1, -1] {
                    var shape = [2, 3, 4]
                    shape[axis < 0 ? axis + 3 : axis] = length
                    let whole = Tensor.random(.normal, shape, key: UInt64(length), on: device)
                    let shards = Self.shards(layout, length, size).map {
                        (tensor: whole.shard(axis: axis, at: $0), positions: $0)
                    }
                    for (tensor, positions) in shards {
                        #expect(tensor.shape[axis < 0 ? axis + 3 : axis] == positions.count)
                    }
                    let again = Tensor.unshard(shards, axis: axis)
                    #expect(again.shape == shape)
                    #expect(
                        again.values(Float.self) == whole.values(Float.self), "length \(length), \(size), axis \(axis)")
                }
            }
        }
    }

    /// The row of a shard is the token its positions say.
    @Test(arguments: SequenceLayout.allCases)
    func shardsHoldTheTokensTheirPositionsName(_ layout: SequenceLayout) {
        let device = CPUDevice(threads: 1)
        let whole = Tensor((0..<23).map { Double($0) }, [1, 23], on: device)
        for positions in Self.shards(layout, 23, 4) {
            #expect(whole.shard(axis: 1, at: positions).doubles == positions.indices.map { Double($0) })
        }
    }

    @Test func shardIsDifferentiable() throws {
        let device = CPUDevice(threads: 1)
        let whole = Tensor((0..<10).map { Double($0) }, [10, 1], on: device)
        for layout in SequenceLayout.allCases {
            let own = layout.positions(length: 10, rank: 1, size: 3)
            let gradient = try valueAndGradient(at: [whole]) { $0[0].shard(axis: 0, at: own).squared.sum() }.gradients[
                0]
            let wanted = (0..<10).map { own.indices.contains($0) ? 2 * Double($0) : 0 }
            #expect(gradient.doubles == wanted, "\(layout)")
        }
    }

    /// Under a causal mask a rank's work is the number of pairs (query it holds, key not after it).
    private static func causalWork(_ positions: Positions) -> Int { positions.indices.reduce(0) { $0 + $1 + 1 } }

    /// Every border of a piece is off by less than one token, and a token's work is at most the length.
    @Test func zigzagBalancesCausalWork() {
        for length in [0, 1, 5, 17, 40, 128, 1000] {
            for size in 1...9 {
                let work = Self.shards(.zigzag, length, size).map(Self.causalWork)
                #expect(work.max()! - work.min()! <= 2 * length, "length \(length), \(size) ranks: \(work)")
            }
        }
        // Where 2N divides the length nothing is rounded, and the work is the same to the pair.
        for size in 1...9 {
            let work = Self.shards(.zigzag, 2 * size * 5, size).map(Self.causalWork)
            #expect(Set(work).count == 1, "\(work)")
        }
    }

    @Test func contiguousDoesNotBalanceCausalWork() {
        let work = Self.shards(.contiguous, 800, 8).map(Self.causalWork)
        #expect(work.last! > 14 * work.first!)
    }
}
