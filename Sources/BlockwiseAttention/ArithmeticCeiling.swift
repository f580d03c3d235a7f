import CAttentionKernels
import TensorCore

extension BlockwiseAttention {
    /// What the arithmetic of the kernel set in use reaches at this moment on all threads of a pool, in floating-point operations a
    /// second: independent multiply-adds that touch no memory, of bf16 numbers where they are what it multiplies. It moves with the
    /// clock, so it belongs beside every figure.
    /// - Parameter seconds: how long to measure, about.
    public static func arithmeticCeiling(_ dtype: DType, on pool: ThreadPool, seconds: Double = 0.02) -> Double {
        let size =
            switch dtype {
            case .float64: 8
            case .bfloat16: 2
            default: 4
            }
        func rate(_ rounds: Int64) -> (perSecond: Double, seconds: Double) {
            let seconds = ContinuousClock().measure {
                pool.run(pool.workers) { _, _ in _ = rz_attention_multiply_adds(size, rounds) }
            }.seconds
            let operations = Double(rz_attention_multiply_adds(size, 1)) * Double(rounds) * Double(pool.workers)
            return (operations / seconds, seconds)
        }
        let trial = rate(100_000)  // also wakes the threads
        return rate(max(1, Int64(100_000 * seconds / max(trial.seconds, 1e-6)))).perSecond
    }
}

extension Duration {
    fileprivate var seconds: Double { Double(components.seconds) + Double(components.attoseconds) * 1e-18 }
}
