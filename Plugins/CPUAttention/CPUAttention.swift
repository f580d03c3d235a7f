import AttentionCore
import BlockwiseAttention
import TensorCore

/// Exact attention in the project's own kernels: blockwise online softmax, every term of the mask, any head size, grouped-query
/// heads, memory linear in T, all threads of the device. AVX-512, AVX2 and portable kernels are chosen at run time.
public struct CPUAttention: AttentionBackend {
    public let name = "cpu"
    private let blocks = BlockwiseAttention()

    public init() {}

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
