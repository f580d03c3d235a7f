import AttentionCore
import CPUAttention
import DistributedCore
import Foundation
import GatherAttention
import TensorCore
import Testing

/// What the `gather` backend holds and sends; its results are among those of RingAttentionTests.
@Suite struct GatherAttentionTests {
    static let full = ProcessInfo.processInfo.environment["RINGZOO_TEST_ALL"] != nil
    static let sizes = [1, 2, 3, 4, 5, 7, 8] + (full ? [16] : [])

    /// One direction on one rank.
    struct Reading: Sendable {
        var peak: Int
        var traffic: Traffic
    }

    static let (heads, keyHeads, headSize) = (2, 1, 64)

    /// Bytes of the keys and values, or of their gradients, of so many float32 tokens.
    static func pair(_ tokens: Int) -> Int { 2 * keyHeads * tokens * headSize * 4 }

    /// Forward and backward of each rank.
    static func readings(
        _ ranks: Int, tokens: Int, _ mask: AttentionMask, _ layout: SequenceLayout
    ) throws -> [[Reading]] {
        try InProcessRanks.run(ranks, threads: ranks) { communicator, device in
            let own = layout.positions(length: tokens * ranks, rank: communicator.rank, size: ranks)
            let problem = AttentionProblem(
                heads: heads, keyHeads: keyHeads, headSize: headSize, dtype: .float32, queries: own, keys: own,
                mask: mask)
            func ones(_ heads: Int) -> Tensor { .ones([1, heads, tokens, headSize], on: device) }
            let (q, k, v, dOut) = (ones(heads), ones(keyHeads), ones(keyHeads), ones(heads))
            let backend = GatherAttention(CPUAttention(), over: communicator)
            func read<R>(_ body: () throws -> R) throws -> (R, Reading) {
                try communicator.barrier()
                let (live, sent) = (device.ledger.live(), communicator.traffic)
                device.ledger.resetPeak()
                let result = try body()
                return (result, Reading(peak: device.ledger.peak() - live, traffic: communicator.traffic - sent))
            }
            let (result, forward) = try read { try backend.forward(q: q, k: k, v: v, problem) }
            let (_, backward) = try read { try backend.backward(dOut: dOut, q: q, k: k, v: v, result, problem) }
            return [forward, backward]
        }
    }

    /// A rank more is a pair more forward, and at most three backward: the stated formula, not constant memory.
    @Test func memoryGrowsByThePairsOfTheFormula() throws {
        let tokens = 512
        let peaks = try [4, 8].map { ranks in
            try Self.readings(ranks, tokens: tokens, .full, .contiguous)[0].map(\.peak)
        }
        #expect(peaks[1][0] - peaks[0][0] == 4 * Self.pair(tokens))
        #expect(peaks[1][1] - peaks[0][1] <= 4 * 3 * Self.pair(tokens))
        #expect(peaks[1][1] - peaks[0][1] >= 4 * 2 * Self.pair(tokens))
    }

    @Test(arguments: sizes)
    func trafficEqualsTheFormula(_ ranks: Int) throws {
        let pair = Self.pair(16)
        for reading in try Self.readings(ranks, tokens: 16, .full, .zigzag) {
            #expect(reading[0].traffic == Traffic(messages: ranks - 1, bytes: (ranks - 1) * pair))
            #expect(reading[1].traffic == Traffic(messages: 2 * (ranks - 1), bytes: 2 * (ranks - 1) * pair))
        }
        // Contiguous and causal: a rank has no share in the gradients of keys that come after its queries.
        for (rank, reading) in try Self.readings(ranks, tokens: 16, .causal, .contiguous).enumerated() {
            #expect(reading[1].traffic.bytes == (ranks - 1 + rank) * pair)
        }
    }
}
