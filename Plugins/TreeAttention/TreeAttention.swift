import AttentionCore
import DistributedCore
import TensorCore

/// Tree Attention (Shyam et al. 2024, arXiv 2408.04093, section 4): attention of queries that every rank holds over keys that are cut
/// over the ranks, as in decoding, where all ranks have the new token and each a part of the cache.
///
/// Every rank folds its own keys into a fresh state of the queries; the states (reference, sum, accumulator) go to all ranks in one
/// message, and each merges them in the order of ranks. All ranks so get the same bits, and what the state held before, the
/// sinks included, counts once. Keys stay where they are: a rank sends (N - 1) B H Tq (D + 2) numbers of the accumulator type,
/// whatever the number of keys.
///
/// The paper reduces along a tree: 2 log2 N rounds of one state. An all-gather is one round, and needs no more than that; it sends
/// (N - 1) / (2 log2 N) times as much, which for the few rows of decoding are kilobytes, less than a round's latency on links up to
/// tens of ranks. For many query rows use the ring.
///
/// `problem` describes queries that are the same on every rank (this is checked; a bias has the rows of all of them), and this rank's
/// keys. Memory beyond inputs and outputs: N states forward, three of dQ backward. Messages of a rank: N - 1 forward; backward an
/// all-reduce of dQ, and one of the bias's gradient where it is wanted. dK and dV stay with their keys.
public struct TreeAttention<Local: AttentionBackend>: DistributedAttention {
    public let local: Local
    public let communicator: any Communicator
    public var name: String { "tree" }

    public init(_ local: Local, over communicator: any Communicator) {
        self.local = local
        self.communicator = communicator
    }

    public func forward(
        q: Tensor, k: Tensor, v: Tensor, into state: inout AttentionState, _ problem: AttentionProblem
    ) throws {
        var own = AttentionState(problem, batch: q.shape[0], on: q.device)
        if !problem.isRuledOut { try local.forward(q: q, k: k, v: v, into: &own, problem) }
        let rows = problem.queries.runs.flatMap { [$0.start, $0.count, $0.stride] }
        let message = Message([own.reference, own.sum, own.accumulator], integers: rows)
        for (rank, received) in try communicator.allGather(message).enumerated() {
            if received.integers != rows { throw otherQueries(rank) }
            state.merge(
                AttentionState(
                    reference: received.tensors[0], sum: received.tensors[1], accumulator: received.tensors[2]))
        }
    }

    public func backward(
        dOut: Tensor, q: Tensor, k: Tensor, v: Tensor, lse: Tensor, delta: Tensor,
        into gradients: inout AttentionGradients, _ problem: AttentionProblem
    ) throws {
        // Sums over the ranks' keys begin at zero on every rank; what is there already counts once.
        let (before, biasBefore) = (gradients.q, gradients.bias)
        gradients.q = .zeros(before.shape, before.dtype, on: q.device)
        gradients.bias = biasBefore.map { .zeros($0.shape, $0.dtype, on: q.device) }
        if !problem.isRuledOut {
            try local.backward(
                dOut: dOut, q: q, k: k, v: v, lse: lse, delta: delta, into: &gradients, problem)
        }
        gradients.q = before + (try communicator.allReduce(gradients.q))
        if let biasBefore, let share = gradients.bias {
            gradients.bias = biasBefore + (try communicator.allReduce(share))
        }
    }

    private func otherQueries(_ rank: Int) -> RingZooError {
        RingZooError(
            .config,
            "the tree backend was given other queries on rank \(rank) than on rank \(communicator.rank): every rank must hold all of them",
            tried: ["the ring backend takes queries that are cut over the ranks"])
    }
}
