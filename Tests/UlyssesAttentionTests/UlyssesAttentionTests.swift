import AttentionCore
import CPUAttention
import ConformanceKit
import DistributedCore
import Foundation
import TensorCore
import Testing
import UlyssesAttention

/// What the `ulysses` backend holds and sends; its results are among those of RingAttentionTests.
@Suite struct UlyssesAttentionTests {
    static let full = ProcessInfo.processInfo.environment["RINGZOO_TEST_ALL"] != nil
    static let sizes = [1, 2, 3, 4, 5, 7, 8] + (full ? [16] : [])

    /// Forward or backward on one rank.
    struct Reading: Sendable {
        /// The most bytes at once beyond inputs and results.
        var beyond: Int
        var traffic: Traffic
    }

    /// A rank's sizes, float32 throughout; documents and a bias per row travel too where they are asked for.
    struct Sizes: Sendable {
        var heads = 8, keyHeads = 4, headSize = 64
        var hasDocuments = false
        var hasBias = false
        var layout = SequenceLayout.zigzag

        func q(_ tokens: Int, heads: Int) -> Int { 4 * heads * tokens * headSize }
        /// P: q, k and v of some tokens, for these heads.
        func inputs(_ tokens: Int, _ heads: Int, _ keyHeads: Int) -> Int {
            q(tokens, heads: heads + 2 * keyHeads)
        }
        /// S: accumulator, reference and sum.
        func state(_ tokens: Int, _ heads: Int) -> Int { q(tokens, heads: heads) + 8 * heads * tokens }
        /// U: dOut, lse (float64) and delta.
        func upstream(_ tokens: Int, _ heads: Int) -> Int { q(tokens, heads: heads) + 12 * heads * tokens }
    }

    static func readings(_ sizes: Sizes, ranks: Int, length: Int) throws -> [(Positions, [Reading])] {
        try InProcessRanks.run(ranks, threads: ranks) { communicator, device in
            let own = sizes.layout.positions(length: length, rank: communicator.rank, size: ranks)
            func ones(_ heads: Int) -> Tensor { .ones([1, heads, own.count, sizes.headSize], on: device) }
            var mask = AttentionMask(causal: true, window: .init(back: 100))
            if sizes.hasDocuments {
                let ids = Tensor(own.indices.map { Int32($0 * 3 / length) }, [1, own.count], on: device)
                mask.documents = .init(queries: ids, keys: ids)
            }
            if sizes.hasBias { mask.bias = .ones([1, sizes.heads, own.count, length], on: device) }
            let problem = AttentionProblem(
                heads: sizes.heads, keyHeads: sizes.keyHeads, headSize: sizes.headSize, dtype: .float32, queries: own,
                keys: own, mask: mask)
            let (q, k, v, dOut) = (ones(sizes.heads), ones(sizes.keyHeads), ones(sizes.keyHeads), ones(sizes.heads))
            let backend = UlyssesAttention(CPUAttention(), over: communicator)
            func read<R>(_ body: () throws -> R, _ results: (R) -> [Tensor]) throws -> (R, Reading) {
                try communicator.barrier()
                let (live, sent) = (device.ledger.live(), communicator.traffic)
                device.ledger.resetPeak()
                let result = try body()
                let bytes = results(result).reduce(0) { $0 + $1.byteCount }
                let reading = Reading(
                    beyond: device.ledger.peak() - live - bytes, traffic: communicator.traffic - sent)
                return (result, reading)
            }
            let (result, forward) = try read({ try backend.forward(q: q, k: k, v: v, problem) }) { [$0.out, $0.lse] }
            let (_, backward) = try read({
                try backend.backward(dOut: dOut, q: q, k: k, v: v, result, problem)
            }) { [$0.q, $0.k, $0.v] + [$0.bias].compactMap { $0 } }
            return (own, [forward, backward])
        }
    }

    /// Heads that divide evenly and heads that do not, shards of unequal size, documents and rows of a bias.
    @Test(arguments: sizes)
    func trafficEqualsTheFormula(_ ranks: Int) throws {
        for (hasDocuments, hasBias) in [(false, false), (true, true)] {
            for keyHeads in [4, 8] {
                let sizes = Sizes(
                    keyHeads: keyHeads, headSize: 16, hasDocuments: hasDocuments, hasBias: hasBias, layout: .contiguous)
                let length = 67
                let parts = try Self.readings(sizes, ranks: ranks, length: length)
                let keyHeadsOf = (0..<ranks).map { keyHeads * ($0 + 1) / ranks - keyHeads * $0 / ranks }
                let headsOf = keyHeadsOf.map { $0 * sizes.heads / keyHeads }
                for (rank, (own, readings)) in parts.enumerated() {
                    var (forward, backward) = (0, 0)
                    for peer in 0..<ranks where peer != rank {
                        let tokens = own.count
                        // There: the tokens of this rank for the heads of the peer.
                        let there =
                            sizes.inputs(tokens, headsOf[peer], keyHeadsOf[peer]) + (hasDocuments ? 8 * tokens : 0)
                            + (hasBias ? 4 * headsOf[peer] * tokens * length : 0)
                        // Back: the tokens of the peer for the heads of this rank.
                        let others = parts[peer].0.count
                        forward += there + sizes.state(others, headsOf[rank])
                        backward += there + sizes.upstream(tokens, headsOf[peer])
                        backward += sizes.inputs(others, headsOf[rank], keyHeadsOf[rank])
                        backward += hasBias ? 4 * headsOf[rank] * others * length : 0
                    }
                    let messages = 2 * (ranks - 1)
                    #expect(readings[0].traffic == Traffic(messages: messages, bytes: forward), "rank \(rank)")
                    #expect(readings[1].traffic == Traffic(messages: messages, bytes: backward), "rank \(rank)")
                }
            }
        }
    }

    /// The formulas of the docstring, with tokens enough that one part too many would stand out beside rows and workspace.
    @Test(arguments: [2, 4])
    func memoryStaysWithinTheFormula(_ ranks: Int) throws {
        let (sizes, tokens) = (Sizes(), 2048)
        let (p, s, u) = (
            sizes.inputs(tokens, sizes.heads, sizes.keyHeads), sizes.state(tokens, sizes.heads),
            sizes.upstream(tokens, sizes.heads)
        )
        let g = p
        // Float64 temporaries of rows; positions of all tokens on both sides; what kernels work in.
        let beside = 48 * sizes.heads * tokens + 16 * tokens * ranks + 6 << 20
        #expect(beside < p, "a part too many would not show")
        for (_, readings) in try Self.readings(sizes, ranks: ranks, length: tokens * ranks) {
            #expect(readings[0].beyond <= max(2 * p, p + s, 3 * s) + beside)
            #expect(readings[1].beyond <= max(2 * (p + u), p + u + g, 3 * g) + beside)
        }
    }

    /// With as many tokens each, a rank of four holds what a rank of two holds, but for positions: 8 bytes a token and side.
    @Test func memoryDoesNotGrowWithTheRanks() throws {
        func peaks(_ ranks: Int) throws -> [Int] {
            let all = try Self.readings(Sizes(), ranks: ranks, length: 1024 * ranks).map(\.1)
            return (0..<2).map { way in all.map { $0[way].beyond }.max()! }
        }
        let sizes = Sizes()
        let (two, four) = (try peaks(2), try peaks(4))
        // The share of a rank that stays where it is is sent nowhere: a quarter of everything more is packed.
        let more = [sizes.inputs(1024, 8, 4), sizes.inputs(1024, 8, 4) + sizes.upstream(1024, 8)].map { $0 / 4 }
        for way in 0..<2 { #expect(four[way] <= two[way] + more[way] + 16 * 2048 + 4096, "\(two), then \(four)") }
    }
}
