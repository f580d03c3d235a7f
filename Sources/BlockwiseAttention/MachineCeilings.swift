import CTensorKernels
import TensorCore

/// What this machine can do at most with a number of threads, measured: the figures that others are compared with. They drift with
/// the clock and with what else runs, so they are taken beside each measurement and never kept.
public struct MachineCeilings: Sendable, Codable, Hashable {
    public var threads: Int
    /// float32 multiply-adds on registers, two operations each (`BlockwiseAttention.arithmeticCeiling`).
    public var gigaflops: Double
    /// Bytes read from memory far larger than the caches, 10^9 a second.
    public var readGigabytes: Double

    /// Measures on the threads of a pool, for about half a second; takes 64 MiB a thread meanwhile.
    public init(on pool: ThreadPool) {
        threads = pool.workers
        gigaflops =
            (0..<5).map { _ in BlockwiseAttention.arithmeticCeiling(.float32, on: pool, seconds: 0.05) }.max()! / 1e9
        let count = 16 << 20
        let buffers = (0..<pool.workers).map { _ in UnsafeMutablePointer<Float>.allocate(capacity: count) }
        defer { for buffer in buffers { buffer.deallocate() } }
        pool.run(pool.workers) { index, _ in buffers[index].initialize(repeating: 1, count: count) }
        readGigabytes = Self.best { repetitions in
            pool.run(pool.workers) { index, _ in
                for _ in 0..<repetitions { _ = rz_read_sum(buffers[index], Int64(count)) }
            }
            return Double(repetitions) * Double(4 * count * pool.workers)
        }
    }

    /// Bytes a second at which the threads of a pool read a contiguous tensor, each its part of it: the median of five passes. It is the
    /// rate of memory where the tensor is far larger than the caches.
    public static func readRate(of tensor: Tensor, on pool: ThreadPool) -> Double {
        let values = tensor.detached.contiguous()
        let count = values.byteCount / MemoryLayout<Float>.size
        let address = UInt(bitPattern: values.address)
        let seconds = (0..<5).map { _ in
            let start = rz_monotonic_seconds()
            pool.run(pool.workers) { index, _ in
                let (first, end) = (count * index / pool.workers, count * (index + 1) / pool.workers)
                let part = UnsafePointer<Float>(bitPattern: address)! + first
                _ = rz_read_sum(part, Int64(end - first))
            }
            return max(1e-9, rz_monotonic_seconds() - start)
        }
        return Double(values.byteCount) / seconds.sorted()[2]
    }

    /// The best of five rates, 10^9 a second; `work` gets a size that takes about 50 ms and returns what it did.
    private static func best(_ work: (Int64) -> Double) -> Double {
        func rate(_ size: Int64) -> (rate: Double, seconds: Double) {
            let start = rz_monotonic_seconds()
            let done = work(size)
            let seconds = max(1e-9, rz_monotonic_seconds() - start)
            return (done / seconds / 1e9, seconds)
        }
        var size: Int64 = 1
        while true {
            let seconds = rate(size).seconds
            if seconds > 0.02 { break }
            size *= 2
        }
        return (0..<5).map { _ in rate(size).rate }.max()!
    }
}
