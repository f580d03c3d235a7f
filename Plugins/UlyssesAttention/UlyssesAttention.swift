import AttentionCore
import DistributedCore
import TensorCore

/// Attention over a sequence that is cut over ranks, by trading tokens for heads (DeepSpeed-Ulysses, Jacobs et al. 2023, arXiv
/// 2309.14509): one all-to-all gives each rank all tokens of some heads, the local backend computes them in one call, and a second
/// one brings the results home.
///
/// Any mask, layout and length; heads go in whole groups that share a key/value head, spread as evenly as they go. More ranks than
/// key/value heads work too, but leave some of them without work: `mesh` is for that.
///
/// Messages of a rank: 2 (N - 1) forward, 2 (N - 1) backward. With P the bytes of its q, k and v, S those of its state (accumulator and
/// two rows, float32), U those of dOut, lse and delta, G those of its dq, dk and dv (float32), and 1/N of the heads each, it sends
/// (P + S)(N - 1)/N forward and (P + U + G)(N - 1)/N backward; documents (4 bytes a query and a key) and rows of the bias go with the
/// first message, gradients of those rows with the second.
///
/// Memory beyond inputs and outputs does not grow with N while N divides the key/value heads: forward at most max(2 P, P + S, 3 S),
/// backward max(2 (P + U), P + U + G, 3 G), for what is sent, what has arrived and what is computed from it.
public struct UlyssesAttention<Local: AttentionBackend>: DistributedAttention {
    public let local: Local
    public let communicator: any Communicator
    public var name: String { "ulysses" }

    public init(_ local: Local, over communicator: any Communicator) {
        self.local = local
        self.communicator = communicator
    }

    public func forward(
        q: Tensor, k: Tensor, v: Tensor, into state: inout AttentionState, _ problem: AttentionProblem
    ) throws {
        if communicator.size == 1 { return try local.forward(q: q, k: k, v: v, into: &state, problem) }
        let exchange = HeadExchange(problem, over: communicator)
        let (own, owners) = try stateOfOwnHeads(q, k, v, exchange)
        let parts = try exchange.scatter(heads: { .init(repeating: $0.heads.count, count: 3) }) { rank in
            [own.reference, own.sum, own.accumulator].map { $0.slice(axis: 2, owners.queriesOfRank[rank]) }
        }
        for (share, part) in parts {
            state.merge(
                AttentionState(reference: part[0], sum: part[1], accumulator: part[2]), heads: share.heads)
        }
    }

    /// The state of all queries for the heads of this rank. What it was computed from is gone on return.
    private func stateOfOwnHeads(
        _ q: Tensor, _ k: Tensor, _ v: Tensor, _ exchange: HeadExchange
    ) throws -> (AttentionState, HeadExchange.Owners) {
        let whole = try exchange.gather(queries: [q], keys: [k, v])
        var state = AttentionState(whole.problem, batch: q.shape[0], on: q.device)
        if whole.problem.heads > 0 {
            try local.forward(
                q: whole.queries[0], k: whole.keys[0], v: whole.keys[1], into: &state, whole.problem)
        }
        return (state, whole.owners)
    }

    public func backward(
        dOut: Tensor, q: Tensor, k: Tensor, v: Tensor, lse: Tensor, delta: Tensor,
        into gradients: inout AttentionGradients, _ problem: AttentionProblem
    ) throws {
        if communicator.size == 1 {
            return try local.backward(
                dOut: dOut, q: q, k: k, v: v, lse: lse, delta: delta, into: &gradients, problem)
        }
        let exchange = HeadExchange(problem, over: communicator)
        let (own, owners) = try gradientsOfOwnHeads(
            dOut, q, k, v, lse, delta, exchange, includingBias: gradients.bias != nil)
        func heads(_ share: HeadShare) -> [Int] {
            [share.heads.count, share.keyHeads.count, share.keyHeads.count, exchange.biasHeads(of: share).count]
        }
        let parts = try exchange.scatter(heads: heads) { rank in
            let (queries, keys) = (owners.queriesOfRank[rank], owners.keysOfRank[rank])
            return [own.q.slice(axis: 2, queries), own.k.slice(axis: 2, keys), own.v.slice(axis: 2, keys)]
                + (owners.hasBiasRows ? own.bias.map { [$0.slice(axis: 2, queries)] } ?? [] : [])
        }
        for (share, part) in parts {
            gradients.q.add(part[0], heads: share.heads)
            gradients.k.add(part[1], heads: share.keyHeads)
            gradients.v.add(part[2], heads: share.keyHeads)
            if part.count > 3 { gradients.bias?.add(part[3], heads: exchange.biasHeads(of: share)) }
        }
        // A bias that all ranks share: each has the gradient of its heads, and the ranks' sum is the whole.
        if !owners.hasBiasRows, let share = own.bias {
            gradients.bias?.add(share, heads: exchange.biasHeads(of: exchange.shares[communicator.rank]))
        }
    }

    /// The gradients of all tokens from the heads of this rank. What they were computed from is gone on return.
    private func gradientsOfOwnHeads(
        _ dOut: Tensor, _ q: Tensor, _ k: Tensor, _ v: Tensor, _ lse: Tensor, _ delta: Tensor,
        _ exchange: HeadExchange, includingBias: Bool
    ) throws -> (AttentionGradients, HeadExchange.Owners) {
        let whole = try exchange.gather(queries: [q, dOut, lse, delta], keys: [k, v])
        var gradients = AttentionGradients(whole.problem, batch: q.shape[0], on: q.device)
        if !includingBias { gradients.bias = nil }
        if whole.problem.heads > 0 {
            try local.backward(
                dOut: whole.queries[1], q: whole.queries[0], k: whole.keys[0], v: whole.keys[1],
                lse: whole.queries[2], delta: whole.queries[3], into: &gradients, whole.problem)
        }
        return (gradients, whole.owners)
    }
}

extension Tensor {
    /// Adds to the part of these heads, axis 1, in place.
    fileprivate mutating func add(_ part: Tensor, heads: Range<Int>) {
        makeUnique()
        let own = slice(axis: 1, heads)
        device.binary(.add, own, part, into: own)
    }
}
