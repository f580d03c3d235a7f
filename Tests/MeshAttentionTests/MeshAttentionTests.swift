import AttentionCore
import CPUAttention
import ConformanceKit
import DistributedCore
import Foundation
import MeshAttention
import RingAttention
import TensorCore
import Testing
import UlyssesAttention

/// The mesh is made of the ring and the heads' strategy; its results are among those of RingAttentionTests.
@Suite struct MeshAttentionTests {
    static let full = ProcessInfo.processInfo.environment["RINGZOO_TEST_ALL"] != nil

    static func mesh(_ headRanks: Int?) -> @Sendable (any Communicator) -> any AttentionBackend {
        {
            MeshAttention(
                CPUAttention(), over: $0, headRanks: headRanks, heads: UlyssesAttentionProvider(),
                ring: RingAttentionProvider())
        }
    }

    static let cases = AttentionConformance.cases().filter { $0.length <= 120 }

    @Test func oneHeadRankIsTheRing() throws {
        for input in Self.cases {
            let ring = try AttentionOutcome(input, ranks: 4, layout: .zigzag) {
                RingAttention(CPUAttention(), over: $0)
            }
            #expect(try AttentionOutcome(input, ranks: 4, layout: .zigzag, Self.mesh(1)) == ring, "\(input)")
        }
    }

    @Test func allHeadRanksAreUlysses() throws {
        for input in Self.cases {
            let ulysses = try AttentionOutcome(input, ranks: 4, layout: .zigzag) {
                UlyssesAttention(CPUAttention(), over: $0)
            }
            #expect(try AttentionOutcome(input, ranks: 4, layout: .zigzag, Self.mesh(4)) == ulysses, "\(input)")
        }
    }

    /// Every divisor of the ranks, also where it does not divide the heads.
    @Test(arguments: [(4, 2), (6, 2), (6, 3), (8, 4)] + (full ? [(16, 2), (16, 8)] : []))
    func everyMeshEqualsTheOracle(_ ranks: Int, _ headRanks: Int) throws {
        for input in Self.cases {
            let truth = AttentionTruth(input)
            let violations = truth.violations(
                try AttentionOutcome(input, ranks: ranks, layout: .contiguous, Self.mesh(headRanks)))
            #expect(violations.isEmpty, "\(violations.joined(separator: "\n"))")
        }
    }

    /// Messages of one rank: the exchange among U and the ring of N / U, forward and backward.
    private static func messages(
        _ ranks: Int, keyHeads: Int, headRanks: Int?, _ mask: AttentionMask = .full
    ) throws -> [[Int]] {
        let shards = SequenceLayout.contiguous.shards(length: 8 * ranks, size: ranks)
        return try InProcessRanks.run(ranks, threads: ranks) { communicator, device in
            let own = shards[communicator.rank]
            var problem = AttentionProblem(
                heads: keyHeads, keyHeads: keyHeads, headSize: 4, dtype: .float32, queries: own, keys: own, mask: mask)
            problem.shards = shards.map { SequenceShard($0) }
            let x = Tensor.ones([1, keyHeads, own.count, 4], on: device)
            let backend = mesh(headRanks)(communicator)
            // The first call splits the communicator.
            let result = try backend.forward(q: x, k: x, v: x, problem)
            let start = communicator.traffic
            _ = try backend.forward(q: x, k: x, v: x, problem)
            let between = communicator.traffic
            _ = try backend.backward(dOut: x, q: x, k: x, v: x, result, problem)
            return [(between - start).messages, (communicator.traffic - between).messages]
        }
    }

    @Test func messagesAreThoseOfBothParts() throws {
        for (ranks, U) in [(4, 2), (6, 2), (6, 3), (8, 4), (8, 2)] {
            let ring = ranks / U
            for messages in try Self.messages(ranks, keyHeads: 4, headRanks: U) {
                #expect(messages == [2 * (U - 1) + ring - 1, 2 * (U - 1) + 2 * ring - 1], "\(ranks) ranks, \(U)")
            }
        }
    }

    /// The largest divisor of the ranks that also divides the key/value heads.
    @Test(arguments: [(4, 2, 2), (4, 4, 4), (6, 4, 2), (6, 3, 3), (5, 4, 1), (8, 4, 4)])
    func autoDividesRanksAndHeads(_ ranks: Int, _ keyHeads: Int, _ U: Int) throws {
        #expect(
            try Self.messages(ranks, keyHeads: keyHeads, headRanks: nil)
                == Self.messages(ranks, keyHeads: keyHeads, headRanks: U))
    }

    /// Two groups of two under a causal mask: the keys of the second are of no use to the first, and stay.
    @Test func theRingBetweenGroupsDropsHops() throws {
        let messages = try Self.messages(4, keyHeads: 2, headRanks: 2, .causal)
        #expect(messages.map { $0[0] } == [3, 3, 2, 2])
        #expect(messages.map { $0[1] } == [4, 4, 3, 3])
    }

    /// With as many tokens a rank, a ring of three groups takes what a ring of four takes, to the byte.
    @Test func memoryDoesNotGrowWithTheRing() throws {
        func peaks(_ ranks: Int) throws -> [Int] {
            let shards = SequenceLayout.contiguous.shards(length: 512 * ranks, size: ranks)
            let readings = try InProcessRanks.run(ranks, threads: ranks) { communicator, device in
                let own = shards[communicator.rank]
                let problem = AttentionProblem(
                    heads: 4, keyHeads: 2, headSize: 64, dtype: .float32, queries: own, keys: own,
                    mask: AttentionMask(causal: true, window: .init(back: 100)))
                func ones(_ heads: Int) -> Tensor { .ones([1, heads, own.count, 64], on: device) }
                let (q, k, v, dOut) = (ones(4), ones(2), ones(2), ones(4))
                let backend = Self.mesh(2)(communicator)
                func peak<R>(_ body: () throws -> R) throws -> (R, Int) {
                    try communicator.barrier()
                    let live = device.ledger.live()
                    device.ledger.resetPeak()
                    let result = try body()
                    return (result, device.ledger.peak() - live)
                }
                let (result, forward) = try peak { try backend.forward(q: q, k: k, v: v, problem) }
                let (_, backward) = try peak {
                    try backend.backward(dOut: dOut, q: q, k: k, v: v, result, problem)
                }
                return [forward, backward]
            }
            return (0..<2).map { way in readings.map { $0[way] }.max()! }
        }
        #expect(try peaks(6) == peaks(8))
    }
}
