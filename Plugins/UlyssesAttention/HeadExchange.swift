import AttentionCore
import DistributedCore
import TensorCore

/// The way from "all heads of this rank's tokens" to "all tokens, this rank's heads" and back, one all-to-all each.
///
/// Everything that travels has heads on axis 1 and tokens on axis 2. Of the mask, documents and rows of the bias go along.
struct HeadExchange {
    /// All tokens, in the order of ranks, for the heads of this rank.
    struct Whole {
        /// As given to `gather`.
        var queries: [Tensor]
        var keys: [Tensor]
        var problem: AttentionProblem
        var owners: Owners
    }

    /// Whose tokens those of a `Whole` are.
    struct Owners {
        var queriesOfRank, keysOfRank: [Range<Int>]
        /// Whether every query has a row of its own in the bias, so that the ranks' rows were put together.
        var hasBiasRows: Bool
    }

    let communicator: any Communicator
    let problem: AttentionProblem
    let shares: [HeadShare]

    init(_ problem: AttentionProblem, over communicator: any Communicator) {
        self.problem = problem
        self.communicator = communicator
        shares = HeadShare.all(problem, ranks: communicator.size)
    }

    /// - Parameters:
    ///   - queries: tensors of this rank's queries, all query heads.
    ///   - keys: tensors of this rank's keys, all key/value heads.
    func gather(queries: [Tensor], keys: [Tensor]) throws -> Whole {
        let documents = problem.mask.documents.map { [$0.queries, $0.keys] } ?? []
        let positions = Positions.integers([problem.queries, problem.keys])
        let received = try communicator.allToAll(
            shares.map { share in
                let own = problem.cut(toKeyHeads: share.keyHeads).mask.bias.flatMap { hasRows($0) ? $0 : nil }
                return Message(
                    queries.map { $0.slice(axis: 1, share.heads) } + keys.map { $0.slice(axis: 1, share.keyHeads) }
                        + documents + (own.map { [$0] } ?? []), integers: positions)
            })
        func joined(_ index: Int, axis: Int) -> Tensor { .concatenate(received.map { $0.tensors[index] }, axis: axis) }
        let parts = received.map { Positions.list($0.integers) }
        let (afterQueries, afterKeys) = (queries.count, queries.count + keys.count)
        var whole = problem.cut(toKeyHeads: shares[communicator.rank].keyHeads)
        whole.queries = Positions(runs: parts.flatMap { $0[0].runs })
        whole.keys = Positions(runs: parts.flatMap { $0[1].runs })
        if problem.mask.documents != nil {
            whole.mask.documents = .init(queries: joined(afterKeys, axis: 1), keys: joined(afterKeys + 1, axis: 1))
        }
        // A bias of one row stands for every query if it cannot be the row of a rank's only one.
        let biasIndex = afterKeys + documents.count
        let hasBiasRows = received.allSatisfy { $0.tensors.count > biasIndex }
        if hasBiasRows { whole.mask.bias = joined(biasIndex, axis: 2) }
        return Whole(
            queries: (0..<afterQueries).map { joined($0, axis: 2) },
            keys: (afterQueries..<afterKeys).map { joined($0, axis: 2) }, problem: whole,
            owners: Owners(
                queriesOfRank: consecutive(parts.map(\.[0].count)), keysOfRank: consecutive(parts.map(\.[1].count)),
                hasBiasRows: hasBiasRows))
    }

    /// Where the bias has the heads of a rank: one of it may stand for all.
    func biasHeads(of share: HeadShare) -> Range<Int> { problem.mask.bias?.shape[1] == 1 ? 0..<1 : share.heads }

    private func hasRows(_ bias: Tensor) -> Bool { bias.shape[2] == problem.queries.count }

    /// Hands every rank the part of its tokens, and returns what each rank's heads have for the tokens here.
    /// - Parameter heads: of a rank with this share, axis 1 of each tensor of its parts.
    func scatter(
        heads: (HeadShare) -> [Int], _ part: (_ rank: Int) -> [Tensor]
    ) throws -> [(share: HeadShare, tensors: [Tensor])] {
        let parts = (0..<communicator.size).map { Message(part($0)) }
        let own = parts[communicator.rank].tensors.map(\.shape)
        let received = try communicator.allToAll(parts) { sender in
            zip(own, heads(shares[sender])).map { shape, heads in
                var shape = shape
                shape[1] = heads
                return shape
            }
        }
        return zip(shares, received).map { ($0, $1.tensors) }
    }
}

/// Ranges of these lengths, one after another from 0.
private func consecutive(_ counts: [Int]) -> [Range<Int>] {
    var end = 0
    return counts.map { count in
        end += count
        return end - count..<end
    }
}
