import AttentionCore
import TensorCore

/// An attention backend that is the blockwise kernels under a name.
public protocol BlockwiseBackend: AttentionBackend {
    var blocks: BlockwiseAttention { get }
}

extension BlockwiseBackend {
    public func unsupportedReasons(_ problem: AttentionProblem) -> [String] { blocks.unsupportedReasons(problem) }

    public func forward(
        q: Tensor, k: Tensor, v: Tensor, into state: inout AttentionState, _ problem: AttentionProblem
    ) throws {
        try blocks.forward(q: q, k: k, v: v, into: &state, problem)
    }

    public func backward(
        dOut: Tensor, q: Tensor, k: Tensor, v: Tensor, lse: Tensor, delta: Tensor,
        into gradients: inout AttentionGradients, _ problem: AttentionProblem
    ) throws {
        try blocks.backward(dOut: dOut, q: q, k: k, v: v, lse: lse, delta: delta, into: &gradients, problem)
    }
}
