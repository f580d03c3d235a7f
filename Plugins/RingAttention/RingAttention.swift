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
/// Itself an `AttentionBackend`; a model cannot tell. `problem` describes this rank's queries and keys by their global positions.
/// Memory beyond inputs and outputs, whatever N: forward 2 key/value pairs (the block in use and the one arriving); backward 2
/// pairs and 2 float32 dK/dV pairs (the one arriving and the one in use). Messages: N - 1 forward, 2N - 1 backward.
public struct RingAttention<Local: AttentionBackend>: AttentionBackend {
    public let local: Local
    public let communicator: any Communicator
    public var name: String { "ring" }

    public init(_ local: Local, over communicator: any Communicator) {
        self.local = local
        self.communicator = communicator
    }

    public func unsupportedReasons(_ problem: AttentionProblem) -> [String] {
        local.unsupportedReasons(problem).map { "local backend '\(local.name)': \($0)" }
    }

    public func forward(
        q: Tensor, k: Tensor, v: Tensor, into state: inout AttentionState, _ problem: AttentionProblem
    ) throws {
        var block = KeyBlock(k: k, v: v, problem)
        for hop in 0..<communicator.size {
            let next = hop + 1 < communicator.size ? try communicator.startRotate(block.message, hop: hop) : nil
            let visible = problem.keyed(by: block.positions, documents: block.documents)
            if !visible.isRuledOut {
                try local.forward(q: q, k: block.k, v: block.v, into: &state, visible)
            }
            if let next { block = KeyBlock(try next.wait()) }
        }
    }

    public func backward(
        dOut: Tensor, q: Tensor, k: Tensor, v: Tensor, lse: Tensor, delta: Tensor,
        into gradients: inout AttentionGradients, _ problem: AttentionProblem
    ) throws {
        var block = KeyBlock(k: k, v: v, problem)
        var gradientHop: (any PendingRotation)?
        for hop in 0..<communicator.size {
            let next = hop + 1 < communicator.size ? try communicator.startRotate(block.message, hop: hop) : nil
            // dK and dV of a block travel one hop behind it, and every rank adds its share.
            if let sums = try gradientHop?.wait() { (gradients.k, gradients.v) = (sums.tensors[0], sums.tensors[1]) }
            let visible = problem.keyed(by: block.positions, documents: block.documents)
            if !visible.isRuledOut {
                try local.backward(
                    dOut: dOut, q: q, k: block.k, v: block.v, lse: lse, delta: delta, into: &gradients, visible)
            }
            if communicator.size > 1 {
                gradientHop = try communicator.startRotate(Message([gradients.k, gradients.v]), hop: hop)
            }
            if let next { block = KeyBlock(try next.wait()) }
        }
        // After N hops they are home.
        if let sums = try gradientHop?.wait() { (gradients.k, gradients.v) = (sums.tensors[0], sums.tensors[1]) }
    }
}
