import AttentionCore
import CPUAttention
import ConformanceKit
import DistributedCore
import RingAttention
import TensorCore
import Testing

/// Keys that no rank further on can see are not sent on, and nothing else changes.
@Suite struct NeededHopsTests {
    static let (heads, keyHeads, headSize) = (2, 1, 16)

    /// Bytes of the float32 keys and values, or of their gradients, of so many tokens.
    static func pair(_ tokens: Int) -> Int { 2 * keyHeads * tokens * headSize * 4 }

    /// Forward and backward of each rank, where all know what the others hold.
    static func traffic(
        _ mask: AttentionMask, _ layout: SequenceLayout, ranks: Int, tokens: Int, documents: [Int32]? = nil
    ) throws -> [[Traffic]] {
        let length = tokens * ranks
        let shards = layout.shards(length: length, size: ranks)
        return try InProcessRanks.run(ranks, threads: ranks) { communicator, device in
            let own = shards[communicator.rank]
            var problem = AttentionProblem(
                heads: heads, keyHeads: keyHeads, headSize: headSize, dtype: .float32, queries: own, keys: own,
                mask: mask)
            if let documents {
                let ids = Tensor(own.indices.map { documents[$0] }, [1, own.count], on: device)
                problem.mask.documents = .init(queries: ids, keys: ids)
            }
            problem.shards = SequenceShard.all(shards, documents: documents, length: length)
            func ones(_ heads: Int) -> Tensor { .ones([1, heads, own.count, headSize], on: device) }
            let (q, k, v, dOut) = (ones(heads), ones(keyHeads), ones(keyHeads), ones(heads))
            let backend = RingAttention(CPUAttention(), over: communicator)
            let start = communicator.traffic
            let result = try backend.forward(q: q, k: k, v: v, problem)
            let between = communicator.traffic
            _ = try backend.backward(dOut: dOut, q: q, k: k, v: v, result, problem)
            return [between - start, communicator.traffic - between]
        }
    }

    /// Contiguous pieces of c tokens: the first query of rank b + h stands (h - 1) c + 1 after the last key of block b, so the block
    /// makes 1 + (back - 1) / c hops, but for those past the last rank.
    @Test(arguments: [2, 3, 4, 5, 7, 8])
    func aWindowEndsTheJourneyOfItsBlocks(_ ranks: Int) throws {
        let tokens = 16
        for back in [0, 1, 2, 16, 17, 40, 1000] {
            let mask = AttentionMask(causal: true, window: .init(back: back))
            let traffic = try Self.traffic(mask, .contiguous, ranks: ranks, tokens: tokens)
            let reach = back == 0 ? 0 : 1 + (back - 1) / tokens
            let hops = (0..<ranks).map { min(reach, ranks - 1 - $0) }
            let sent = hops.reduce(0, +)
            let home = hops.count { $0 > 0 }
            let (forward, backward) = (traffic.map { $0[0] }, traffic.map { $0[1] })
            #expect(forward.reduce(0) { $0 + $1.messages } == sent, "back \(back)")
            #expect(forward.reduce(0) { $0 + $1.bytes } == sent * Self.pair(tokens), "back \(back)")
            #expect(backward.reduce(0) { $0 + $1.messages } == 2 * sent + home, "back \(back)")
            #expect(backward.reduce(0) { $0 + $1.bytes } == (2 * sent + home) * Self.pair(tokens), "back \(back)")
        }
    }

    /// A window of an eighth of the sequence on eight ranks: one message a rank where there were seven, three where there were fifteen.
    @Test func aWindowOfOneEighth() throws {
        let mask = AttentionMask(causal: true, window: .init(back: 16))
        let traffic = try Self.traffic(mask, .contiguous, ranks: 8, tokens: 16)
        for rank in 0..<7 {
            #expect(traffic[rank][0].messages == 1)
            // Its block, that block's gradients, and those of the block before, which go home.
            #expect(traffic[rank][1].messages == (rank == 0 ? 2 : 3))
        }
        #expect(traffic[7][0].messages == 0 && traffic[7][1].messages == 1)
    }

    /// Without a mask, and with a causal one over zigzag, every rank sees something of every block.
    @Test(arguments: [2, 3, 4, 5, 7, 8])
    func whatAllNeedGoesAllTheWay(_ ranks: Int) throws {
        for (mask, layout) in [
            (AttentionMask.full, SequenceLayout.contiguous), (.full, .zigzag), (.causal, .zigzag), (.causal, .striped),
        ] {
            for traffic in try Self.traffic(mask, layout, ranks: ranks, tokens: 16) {
                #expect(traffic[0] == Traffic(messages: ranks - 1, bytes: (ranks - 1) * Self.pair(16)))
                #expect(traffic[1] == Traffic(messages: 2 * ranks - 1, bytes: (2 * ranks - 1) * Self.pair(16)))
            }
        }
    }

    /// Documents that end inside a rank's piece: only the one that goes on is passed on.
    @Test func documentsEndTheJourneyOfTheirBlocks() throws {
        let (ranks, tokens) = (8, 16)
        // Documents of two ranks' tokens each, then of half a rank's.
        for (length, hops) in [(32, 4), (8, 0), (128, 28)] {
            let documents = (0..<ranks * tokens).map { Int32($0 / length) }
            let traffic = try Self.traffic(
                .causal, .contiguous, ranks: ranks, tokens: tokens, documents: documents)
            #expect(traffic.reduce(0) { $0 + $1[0].messages } == hops, "documents of \(length)")
        }
    }

    /// With what the ranks know of each other and without, in every layout.
    @Test func nothingElseChanges() throws {
        for input in AttentionConformance.cases() where input.terms.causal && input.length <= 120 {
            for layout in SequenceLayout.allCases {
                let known = try AttentionOutcome(input, ranks: 5, layout: layout) {
                    RingAttention(CPUAttention(), over: $0)
                }
                let unknown = try AttentionOutcome(input, ranks: 5, layout: layout) {
                    Forgetful(base: RingAttention(CPUAttention(), over: $0))
                }
                #expect(known == unknown, "\(input), \(layout)")
            }
        }
    }

    /// Beyond inputs and results: 2 pairs of keys and values, and 2 of gradients where a block's come home before the last hop.
    @Test func memoryStaysThatOfTheRing() throws {
        let (ranks, tokens) = (5, 2048)
        let shards = SequenceLayout.contiguous.shards(length: ranks * tokens, size: ranks)
        let readings = try InProcessRanks.run(ranks, threads: ranks) { communicator, device in
            let own = shards[communicator.rank]
            var problem = AttentionProblem(
                heads: 4, keyHeads: 2, headSize: 64, dtype: .float32, queries: own, keys: own,
                mask: AttentionMask(causal: true, window: .init(back: 3 * tokens)))
            problem.shards = shards.map { SequenceShard($0) }
            func ones(_ heads: Int) -> Tensor { .ones([1, heads, tokens, 64], on: device) }
            let (q, k, v, dOut) = (ones(4), ones(2), ones(2), ones(4))
            let backend = RingAttention(CPUAttention(), over: communicator)
            let result = try backend.forward(q: q, k: k, v: v, problem)
            try communicator.barrier()
            let live = device.ledger.live()
            device.ledger.resetPeak()
            let gradients = try backend.backward(dOut: dOut, q: q, k: k, v: v, result, problem)
            let results = [gradients.q, gradients.k, gradients.v].reduce(0) { $0 + $1.byteCount }
            return device.ledger.peak() - live - results
        }
        let pair = 2 * 2 * tokens * 64 * 4
        // Rows, and what the kernels work in on one thread.
        let beside = 40 * 4 * tokens + 24 * tokens + 3 << 19
        #expect(beside < pair, "a pair too many would not show")
        for (rank, beyond) in readings.enumerated() { #expect(beyond <= 4 * pair + beside, "rank \(rank)") }
    }
}

/// Does not tell what the other ranks hold.
private struct Forgetful<Base: AttentionBackend>: AttentionBackend {
    let base: Base
    var name: String { base.name }

    func unsupportedReasons(_ problem: AttentionProblem) -> [String] { base.unsupportedReasons(problem) }

    func forward(
        q: Tensor, k: Tensor, v: Tensor, into state: inout AttentionState, _ problem: AttentionProblem
    ) throws {
        var problem = problem
        problem.shards = nil
        try base.forward(q: q, k: k, v: v, into: &state, problem)
    }

    func backward(
        dOut: Tensor, q: Tensor, k: Tensor, v: Tensor, lse: Tensor, delta: Tensor,
        into gradients: inout AttentionGradients, _ problem: AttentionProblem
    ) throws {
        var problem = problem
        problem.shards = nil
        try base.backward(dOut: dOut, q: q, k: k, v: v, lse: lse, delta: delta, into: &gradients, problem)
    }
}
