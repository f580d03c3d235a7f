import BlockwiseAttention

/// Exact attention in the project's own kernels: blockwise online softmax, every term of the mask, any head size, grouped-query
/// heads, memory linear in T, all threads of the device. AVX-512, AVX2 and portable kernels are chosen at run time.
public struct CPUAttention: BlockwiseBackend {
    public let name = "cpu"
    public let blocks = BlockwiseAttention()

    public init() {}
}
