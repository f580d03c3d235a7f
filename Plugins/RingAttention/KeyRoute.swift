import AttentionCore
import DistributedCore

/// Which key blocks go how far around the ring, seen from one rank: a block goes on while a rank further on can see a key of it.
///
/// Block b is the one of rank b's keys; at hop h it is on rank b + h. Every rank knows what all hold (`AttentionProblem.shards`), so
/// sender and receiver agree without a word. Where that is not known, every block goes all the way.
struct KeyRoute {
    private let rank, size: Int
    /// For each block, the last hop at which it is wanted; 0 where nobody but its owner sees any of it.
    private let lastHop: [Int]

    init(_ problem: AttentionProblem, over communicator: any Communicator) {
        let size = communicator.size
        (rank, self.size) = (communicator.rank, size)
        guard let shards = problem.shards else {
            lastHop = [Int](repeating: size - 1, count: size)
            return
        }
        if shards.count != size { fatalError("RingAttention: \(shards.count) shards for \(size) ranks") }
        lastHop = (0..<size).map { block in
            (1..<size).last { hop in
                !problem.mask.rulesOut(queries: shards[(block + hop) % size], keys: shards[block])
            } ?? 0
        }
    }

    /// Hops until no block is wanted any more, the one at home included.
    var hops: Int { lastHop.max()! + 1 }

    private func block(_ hop: Int) -> Int { (rank - hop + size) % size }

    /// Whether a block is here at this hop.
    func hasBlock(_ hop: Int) -> Bool { hop <= lastHop[block(hop)] }

    /// The rank that the block which is here goes to next, with its gradients behind it.
    func next(_ hop: Int) -> Int? { hop < lastHop[block(hop)] ? (rank + 1) % size : nil }

    /// The rank that the block of the next hop comes from.
    func previous(_ hop: Int) -> Int? { hop + 1 < size && hasBlock(hop + 1) ? (rank + size - 1) % size : nil }

    /// The owner of the block whose last hop this is, where its gradients go now; nil where that is this rank.
    func owner(_ hop: Int) -> Int? { hop > 0 && hop == lastHop[block(hop)] ? block(hop) : nil }

    /// The rank where this rank's own block has its last hop now, and where its gradients come home from.
    func end(_ hop: Int) -> Int? { hop > 0 && hop == lastHop[rank] ? (rank + hop) % size : nil }

    /// Whether this rank's own block never leaves it.
    var staysHome: Bool { lastHop[rank] == 0 }
}
