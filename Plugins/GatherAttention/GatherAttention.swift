import AttentionCore
import DistributedCore
import TensorCore

/// Attention over a sequence that is cut over ranks, by collecting all keys and values on every rank.
///
/// One exchange forward and two backward where the ring has N - 1 and 2N - 1, so it is the faster one where keys and values of the
/// whole sequence fit every rank: few key/value heads, short sequences, slow links. Results are those of the ring: any mask, layout
/// and length.
///
/// Memory beyond inputs and outputs: forward N key/value pairs; backward N pairs and 2 N float32 dK/dV pairs (the shares
/// of all blocks, and all ranks' shares of the own one). Bytes sent by a rank, of the pair it holds (P) and its gradients (G):
/// (N - 1) P forward; (N - 1) P and the N - 1 other ranks' G backward, without those that the mask hides from its queries.
public struct GatherAttention<Local: AttentionBackend>: DistributedAttention {
    public let local: Local
    public let communicator: any Communicator
    public var name: String { "gather" }

    public init(_ local: Local, over communicator: any Communicator) {
        self.local = local
        self.communicator = communicator
    }

    public func forward(
        q: Tensor, k: Tensor, v: Tensor, into state: inout AttentionState, _ problem: AttentionProblem
    ) throws {
        for message in try communicator.allGather(KeyBlock(k: k, v: v, problem).message) {
            let block = KeyBlock(message)
            let visible = problem.keyed(by: block.positions, documents: block.documents)
            if !visible.isRuledOut { try local.forward(q: q, k: block.k, v: block.v, into: &state, visible) }
        }
    }

    public func backward(
        dOut: Tensor, q: Tensor, k: Tensor, v: Tensor, lse: Tensor, delta: Tensor,
        into gradients: inout AttentionGradients, _ problem: AttentionProblem
    ) throws {
        // This rank's share of every block's dK and dV; nothing where the mask hides the block.
        var shares: [Message] = []
        let own = (gradients.k, gradients.v)
        for message in try communicator.allGather(KeyBlock(k: k, v: v, problem).message) {
            let block = KeyBlock(message)
            let visible = problem.keyed(by: block.positions, documents: block.documents)
            if visible.isRuledOut {
                shares.append(Message([]))
                continue
            }
            gradients.k = .zeros(block.k.shape, problem.accumulator, on: q.device)
            gradients.v = .zeros(block.v.shape, problem.accumulator, on: q.device)
            try local.backward(
                dOut: dOut, q: q, k: block.k, v: block.v, lse: lse, delta: delta, into: &gradients, visible)
            shares.append(Message([gradients.k, gradients.v]))
        }
        // Each block's owner adds the ranks' shares, in their order.
        (gradients.k, gradients.v) = own
        for share in try communicator.allToAll(shares) where !share.tensors.isEmpty {
            gradients.k = gradients.k + share.tensors[0]
            gradients.v = gradients.v + share.tensors[1]
        }
    }
}
