import BlockwiseAttention
import CAttentionKernels
import COpenBLAS

/// The same blocks as the `cpu` backend with OpenBLAS's matrix products, one single-threaded call per block (`CPUDevice` sets
/// OpenBLAS to one thread).
public struct BLASAttention: BlockwiseBackend {
    public let name = "blas"
    public let blocks = BlockwiseAttention(products: .openBLAS)

    public init() {}
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
