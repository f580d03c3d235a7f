import AttentionCore
import BlockwiseAttention
import CAttentionKernels
import COpenBLAS
import TensorCore

/// The same blocks as the `cpu` backend with OpenBLAS's matrix products, one single-threaded call per block (`CPUDevice` sets
/// OpenBLAS to one thread).
public struct BLASAttention: AttentionBackend {
    public let name = "blas"
    private let blocks: BlockwiseAttention

    public init() {
        blocks = BlockwiseAttention(products: .openBLAS)
    }

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

extension rz_attention_products {
    static let openBLAS = rz_attention_products(
        float32: { ofA, ofB, m, n, k, a, lda, b, ldb, beta, c, ldc in
            cblas_sgemm(
                CblasRowMajor, ofA.transpose, ofB.transpose, Int32(m), Int32(n), Int32(k), 1, a, Int32(lda), b,
                Int32(ldb),
                beta, c, Int32(ldc))
        },
        float64: { ofA, ofB, m, n, k, a, lda, b, ldb, beta, c, ldc in
            cblas_dgemm(
                CblasRowMajor, ofA.transpose, ofB.transpose, Int32(m), Int32(n), Int32(k), 1, a, Int32(lda), b,
                Int32(ldb),
                beta, c, Int32(ldc))
        })
}

extension rz_operand {
    fileprivate var transpose: CBLAS_TRANSPOSE { self == RZ_TRANSPOSED ? CblasTrans : CblasNoTrans }
}
