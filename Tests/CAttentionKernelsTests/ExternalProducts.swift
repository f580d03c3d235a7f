import CAttentionKernels
import Synchronization

/// Products for the place where a library's go.
extension rz_attention_products {
    /// Loops that add in float64.
    static let plainLoops = rz_attention_products(
        float32: { multiply($0, $1, $2, $3, $4, $5!, $6, $7!, $8, $9, $10!, $11) },
        float64: { multiply($0, $1, $2, $3, $4, $5!, $6, $7!, $8, $9, $10!, $11) })

    /// The same; every product A B^T (logits, and gradients of weights) leaves its rows in `rowsOfLogits`.
    static let recording = rz_attention_products(
        float32: { ofA, ofB, m, n, k, a, lda, b, ldb, beta, c, ldc in
            if ofB == RZ_TRANSPOSED { rowsOfLogits.withLock { $0.append(m) } }
            multiply(ofA, ofB, m, n, k, a!, lda, b!, ldb, beta, c!, ldc)
        },
        float64: plainLoops.float64)
}

/// In the order of the calls; what a C function calls back has no other place to write to.
let rowsOfLogits = Mutex<[Int64]>([])

/// C = A B + beta C, row-major.
private func multiply<Real: BinaryFloatingPoint>(
    _ ofA: rz_operand, _ ofB: rz_operand, _ m: Int64, _ n: Int64, _ k: Int64, _ a: UnsafePointer<Real>, _ lda: Int64,
    _ b: UnsafePointer<Real>, _ ldb: Int64, _ beta: Real, _ c: UnsafeMutablePointer<Real>, _ ldc: Int64
) {
    for i in 0..<m {
        for j in 0..<n {
            var sum = 0.0
            for l in 0..<k {
                let x = ofA == RZ_TRANSPOSED ? a[Int(l * lda + i)] : a[Int(i * lda + l)]
                let y = ofB == RZ_TRANSPOSED ? b[Int(j * ldb + l)] : b[Int(l * ldb + j)]
                sum += Double(x) * Double(y)
            }
            let at = Int(i * ldc + j)
            c[at] = Real(sum) + (beta == 0 ? 0 : c[at])
        }
    }
}
