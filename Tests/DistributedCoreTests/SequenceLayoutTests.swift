import AttentionCore
import ConformanceKit
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

    // MARK: Shares

    /// Random shares, also 0, of random lengths.
    private static let draws: [(length: Int, shares: [Int])] = (1...200).map { seed in
        var draw = Draw(seed: UInt64(seed))
        let shares = (0..<draw(1...9)).map { _ in draw(0...6) }
        return (draw(0...120), shares.contains { $0 > 0 } ? shares : shares + [1])
    }

    @Test(arguments: SequenceLayout.allCases)
    func sharesPartitionTheSequence(_ layout: SequenceLayout) {
        for (length, shares) in Self.draws {
            let held = layout.shards(length: length, size: shares.count, shares: shares)
            #expect(held.flatMap(\.indices).sorted() == Array(0..<length), "\(length) tokens, shares \(shares)")
            let total = shares.reduce(0, +)
            for (positions, share) in zip(held, shares) {
                // Rounded at two borders, in zigzag at four; striped at the end of one round.
                let exact = Double(length * share) / Double(total)
                let tolerated = layout == .striped ? Double(share) : layout == .zigzag ? 2 : 1
                #expect(abs(Double(positions.count) - exact) <= tolerated, "\(length) tokens, shares \(shares)")
            }
        }
    }

    @Test(arguments: SequenceLayout.allCases)
    func equalSharesChangeNothing(_ layout: SequenceLayout) {
        for length in [0, 1, 7, 40, 100] {
            for size in 1...9 {
                let plain = Self.shards(layout, length, size)
                for share in [1, 3] {
                    let shares = [Int](repeating: share, count: size)
                    #expect(layout.shards(length: length, size: size, shares: shares) == plain)
                }
            }
        }
    }

    /// Work in the relation of the shares, to 2 % at 64 tokens a share.
    @Test(arguments: [SequenceLayout.zigzag, .striped])
    func causalWorkFollowsTheShares(_ layout: SequenceLayout) {
        for shares in [[2, 1, 1], [3, 2], [1, 4, 2, 1], [5, 3, 1, 1, 2]] {
            let total = shares.reduce(0, +)
            let work = layout.shards(length: 64 * total, size: shares.count, shares: shares).map(Self.causalWork)
            let all = work.reduce(0, +)
            for (work, share) in zip(work, shares) {
                let ratio = Double(work * total) / Double(all * share)
                #expect(abs(ratio - 1) < 0.02, "shares \(shares): \(ratio)")
            }
        }
    }

    // MARK: Balance by counted work

    /// The mean rank's visible pairs over the busiest one's: the share of the ranks' time that is spent computing.
    private static func balance(
        _ layout: SequenceLayout, _ mask: AttentionMask, _ documents: [Int32]?, length: Int, size: Int
    ) -> Double {
        let device = CPUDevice(threads: 1)
        let whole = Positions.contiguous(count: length)
        let work = shards(layout, length, size).map { own -> Int in
            var mask = mask
            if let documents {
                let ids = own.indices.map { documents[$0] }
                mask.documents = .init(
                    queries: Tensor(ids, [1, own.count], on: device), keys: Tensor(documents, [1, length], on: device))
            }
            return mask.visiblePairs(queries: own, keys: whole, batch: 1)
        }
        return Double(work.reduce(0, +)) / Double(size * work.max()!)
    }

    @Test func zigzagBalancesEightRanks() {
        for length in [1024, 4096, 4099, 8192] {
            let balance = Self.balance(.zigzag, .causal, nil, length: length, size: 8)
            #expect(balance >= 0.98, "\(length) tokens: \(balance)")
        }
    }

    /// Documents packed one after another, of random lengths whose mean is a sixteenth of the sequence.
    private static func packed(_ length: Int, seed: UInt64) -> [Int32] {
        var draw = Draw(seed: seed)
        var (ids, id) = ([Int32](), Int32(0))
        while ids.count < length {
            ids += [Int32](repeating: id, count: min(draw(1...length / 8), length - ids.count))
            id += 1
        }
        return ids
    }

    @Test func stripesBalancePackedDocuments() {
        var worst = [SequenceLayout: Double]()
        for seed in 1...20 as ClosedRange<UInt64> {
            let documents = Self.packed(4096, seed: seed)
            for layout in SequenceLayout.allCases {
                let balance = Self.balance(layout, .causal, documents, length: 4096, size: 8)
                worst[layout] = min(worst[layout] ?? 1, balance)
            }
        }
        #expect(worst[.striped]! >= 0.98, "\(worst)")
        #expect(worst[.zigzag]! < 0.9 && worst[.contiguous]! < 0.9, "the other layouts would do: \(worst)")
    }
}
