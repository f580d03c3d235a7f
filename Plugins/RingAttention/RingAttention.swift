import AttentionCore
import DistributedCore
import TensorCore

/// Ring Attention (Liu, Zaharia, Abbeel 2023, arXiv 2310.01889, section 3): exact attention over a sequence that no rank holds.
///
/// Every rank keeps its queries; key/value blocks travel around the ring, and while a block is on its way to the next rank, the
/// local backend folds it into the state of the queries. The state (reference, sum, accumulator) is carried through all hops in
/// float32 and normalised once, so the error does not grow with the number of ranks. Positions, and the documents' key side, travel
/// with their block: any layout, any split and any length is exact.
///
/// Itself an `AttentionBackend`; a model cannot tell. `problem` describes this rank's queries and keys by their global positions. Where
/// it also says what the other ranks hold (`AttentionProblem.shards`), a block stops at the last rank that can see one of its keys, and
/// its gradients go straight home from there (`KeyRoute`).
///
/// Memory beyond inputs and results, whatever N: forward 2 key/value pairs (the block in use and the one arriving); backward 2
/// pairs and 1 float32 dK/dV pair (the one arriving; the one in use is the result at the end), 2 where blocks stop early and
/// the result is home before the last hop. Messages: N - 1 forward, 2N - 1 backward; where blocks stop early, those of the key blocks
/// that are passed on, and backward twice as many and one for each block that comes home.
public struct RingAttention<Local: AttentionBackend>: DistributedAttention {
    public let local: Local
    public let communicator: any Communicator
    public var name: String { "ring" }

    public init(_ local: Local, over communicator: any Communicator) {
        self.local = local
        self.communicator = communicator
    }

    public func forward(
        q: Tensor, k: Tensor, v: Tensor, into state: inout AttentionState, _ problem: AttentionProblem
    ) throws {
        let route = KeyRoute(problem, over: communicator)
        var block = KeyBlock(k: k, v: v, problem)
        for hop in 0..<route.hops {
            let next = try communicator.startShift(
                block.message, to: route.next(hop), from: route.previous(hop), hop: hop)
            let visible = problem.keyed(by: block.positions, documents: block.documents)
            if route.hasBlock(hop) && !visible.isRuledOut {
                try local.forward(q: q, k: block.k, v: block.v, into: &state, visible)
            }
            if let arrived = try next.wait() { block = KeyBlock(arrived) }
        }
    }

    public func backward(
        dOut: Tensor, q: Tensor, k: Tensor, v: Tensor, lse: Tensor, delta: Tensor,
        into gradients: inout AttentionGradients, _ problem: AttentionProblem
    ) throws {
        let route = KeyRoute(problem, over: communicator)
        var block = KeyBlock(k: k, v: v, problem)
        // dK and dV: of the block in hand, on their way behind it, and of this rank's own block, at home.
        var onward, homeward: (any PendingShift)?
        var home: Message?
        for hop in 0..<route.hops {
            let next = try communicator.startShift(
                block.message, to: route.next(hop), from: route.previous(hop), hop: hop)
            home = try homeward?.wait() ?? home
            if let sums = try onward?.wait() { (gradients.k, gradients.v) = (sums.tensors[0], sums.tensors[1]) }
            let visible = problem.keyed(by: block.positions, documents: block.documents)
            if route.hasBlock(hop) && !visible.isRuledOut {
                try local.backward(
                    dOut: dOut, q: q, k: block.k, v: block.v, lse: lse, delta: delta, into: &gradients, visible)
            }
            // They travel one hop behind their block, every rank adds its share, and the last one sends them home.
            let sums = Message([gradients.k, gradients.v])
            onward = try communicator.startShift(sums, to: route.next(hop), from: route.previous(hop), hop: hop)
            homeward = try communicator.startShift(sums, to: route.owner(hop), from: route.end(hop), hop: hop)
            if hop == 0 && route.staysHome { home = sums }
            if let arrived = try next.wait() { block = KeyBlock(arrived) }
        }
        if let sums = try homeward?.wait() ?? home { (gradients.k, gradients.v) = (sums.tensors[0], sums.tensors[1]) }
    }
}
