import CAttentionKernels
import CTensorKernels
import TensorCore

extension BlockwiseAttention {
    /// What the arithmetic of the kernel set in use reaches at this moment on all threads of a device, in floating-point operations a
    /// second: independent multiply-adds that touch no memory, of bf16 numbers where they are what it multiplies. It moves with the clock, so it belongs beside every figure.
    /// - Parameter seconds: how long to measure, about.
    public static func arithmeticCeiling(_ dtype: DType, on device: CPUDevice, seconds: Double = 0.02) -> Double {
        let size =
            switch dtype {
            case .float64: 8
            case .bfloat16: 2
            default: 4
            }
        func rate(_ rounds: Int64) -> (perSecond: Double, seconds: Double) {
            var call = Call(elementBytes: size, rounds: rounds)
            let workers = Int64(device.pool.workers)
            let seconds = ContinuousClock().measure {
                rz_pool_run(device.pool.handle, workers, { argument, _, _ in Call.run(argument) }, &call)
            }.seconds
            return (call.operations * Double(workers) / seconds, seconds)
        }
        let trial = rate(100_000)  // also wakes the threads
        return rate(max(1, Int64(100_000 * seconds / max(trial.seconds, 1e-6)))).perSecond
    }

    /// What every worker reads.
    private struct Call {
        let elementBytes: Int
        let rounds: Int64
        /// The same for every worker, which is why it is counted once, before they start.
        let operations: Double

        init(elementBytes: Int, rounds: Int64) {
            self.elementBytes = elementBytes
            self.rounds = rounds
            operations = Double(rz_attention_multiply_adds(elementBytes, 1)) * Double(rounds)
        }

        static func run(_ argument: UnsafeMutableRawPointer?) {
            let call = argument!.assumingMemoryBound(to: Call.self).pointee
            _ = rz_attention_multiply_adds(call.elementBytes, call.rounds)
        }
    }
}

extension Duration {
    fileprivate var seconds: Double { Double(components.seconds) + Double(components.attoseconds) * 1e-18 }
}
