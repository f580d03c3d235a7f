import AttentionCore
import DistributedCore
import Foundation
import NeuralCore
import TensorCore

/// This machine as a planned device, by measurement: takes a few seconds.
public struct MachineSpeed: Sendable {
    /// Of all threads together.
    public let speed: DeviceSpeed
    public let link: LinkSpeed
    public let threads: Int

    /// Measures products, attention with `attention`, passes over memory, small operations, and the exchange between two in-process
    /// ranks. Half-precision models compute products in float32 here, so the figures are float32's.
    public init(threads: Int, attention: any AttentionBackend) throws {
        let device = CPUDevice(threads: threads)
        func random(_ shape: [Int]) -> Tensor { .random(.normal, shape, .float32, key: 1, on: device) }
        let (x, w) = (random([1024, 512]), random([1376, 512]))
        let products = 2 * 1024.0 * 512 * 1376 / Self.seconds { _ = Tensor.matmul(x, w.transposed()) }

        let (H, T, D) = (8, 1024, 64)
        let (q, k, v) = (random([1, H, T, D]), random([1, H, T, D]), random([1, H, T, D]))
        let problem = AttentionProblem(
            heads: H, keyHeads: H, headSize: D, dtype: .float32, queries: .contiguous(count: T),
            keys: .contiguous(count: T), mask: .causal)
        let flops =
            14 * Double(H * D)
            * Double(
                problem.mask.visiblePairs(
                    queries: problem.queries, keys: problem.keys, batch: 1))
        let attentionRate =
            flops
            / (try Self.seconds {
                let result = try attention.forward(q: q, k: k, v: v, problem)
                _ = try attention.backward(dOut: q, q: q, k: k, v: v, result, problem)
            })

        let (a, b) = (random([1 << 22]), random([1 << 22]))
        let memory = 3 * 4 * Double(1 << 22) / Self.seconds { _ = a + b }
        let small = random([64])
        let launch = Self.seconds { for _ in 0..<1000 { _ = small + small } } / 1000

        let pieces = try InProcessRanks.run(2, threads: 2) { ranks, device in
            let small = Tensor.zeros([16], .float32, on: device), large = Tensor.zeros([1 << 20], .float32, on: device)
            func hop(_ x: Tensor) throws -> Double {
                try Self.seconds { _ = try ranks.startRotate(Message([x])).wait() }
            }
            return (latency: try hop(small), large: try hop(large))
        }[0]
        speed = DeviceSpeed(products: products, attention: attentionRate, memory: memory, launch: launch)
        link = LinkSpeed(
            bandwidth: Double(4 << 20) / max(1e-9, pieces.large - pieces.latency), latency: pieces.latency)
        self.threads = threads
    }

    /// This machine's share for each of so many in-process ranks.
    public func device(ranks: Int) -> PlannedDevice {
        let share = 1 / Double(ranks)
        return PlannedDevice(
            name: "this machine", memory: Int(ProcessInfo.processInfo.physicalMemory) / ranks,
            peak: speed.products * share,
            speed: DeviceSpeed(
                products: speed.products * share, attention: speed.attention * share, memory: speed.memory * share,
                launch: speed.launch * max(1, Double(ranks) / Double(threads))),
            link: link, workers: max(1, threads / ranks))
    }

    /// Median of seven runs after one.
    private static func seconds(_ body: () throws -> Void) rethrows -> Double {
        try body()
        let runs = try (0..<7).map { _ in
            let start = ContinuousClock.now
            try body()
            return (ContinuousClock.now - start) / .seconds(1)
        }
        return runs.sorted()[3]
    }
}
