import AttentionCore
import BlockwiseAttention
import DistributedCore
import TensorCore

/// This machine as a planned device, by measurement.
///
/// A step is rehearsed, and every operation in it is done on operands of the same shapes: products, attention, norms, copies, the
/// optimizer's update, as many ranks at once as the step has. One round does each different operation once. The speed of a host that
/// others use too moves within seconds, so there are rounds over some seconds, and an operation takes the mean of the middle half of its
/// rounds. The rates of products, of attention and of everything else are those with which this step takes what its operations take.
public struct MachineSpeed: Sendable {
    public let device: PlannedDevice
    /// What the step takes in the first and in the third quarter of the rounds, as shares of what the plan says: how much the speed
    /// of this machine moved meanwhile.
    public let spread: ClosedRange<Double>

    /// Seconds of rounds, and how many at least and at most.
    private static let patience = 5.0
    private static let rounds = 5...100
    /// A step whose operations take longer than about so many seconds a round is measured with a shorter context.
    private static let longestRound = 1.0

    /// More than the caches of a processor hold.
    private static let otherBytes = 64 << 20

    /// - Parameter threads: of all ranks together.
    public init(
        for training: PlannedTraining, _ setting: StepRehearsal.Setting, threads: Int,
        limits: [MemoryLimit] = MemoryLimit.ofThisMachine()
    ) throws {
        let ranks = setting.mesh.ranks
        let (step, entries) = try Self.operations(of: training, setting, workers: max(1, threads / ranks))
        let samples = try InProcessRanks.run(ranks, threads: threads) { communicator, device in
            try Self.samples(of: entries, on: device, with: communicator)
        }
        let middle = entries.indices.map { entry in
            samples.map { mean(ofMiddleHalf: $0.map { $0[entry] }) }.reduce(0, +) / Double(ranks)
        }
        func seconds(_ parts: [RehearsalDevice.Part]) -> Double {
            zip(entries, middle).reduce(0) { parts.contains($1.0.part) ? $0 + Double($1.0.count) * $1.1 : $0 }
        }
        func rate(_ amount: (RehearsalDevice.Spending) -> Double, _ parts: [RehearsalDevice.Part]) -> Double {
            let all = parts.reduce(0) { $0 + (step.spending[$1].map(amount) ?? 0) }
            // A step without such operations asks for no rate.
            return all > 0 ? all / seconds(parts) : 1
        }
        let speed = DeviceSpeed(
            products: rate(\.flops, [.products]), attention: rate(\.flops, [.attention]),
            memory: rate(\.bytes, [.elements, .optimizer]), launch: 0)
        let limit = limits.min { $0.bytes < $1.bytes }!
        let ceilings = MachineCeilings(on: ThreadPool(workers: threads))
        device = PlannedDevice(
            name: "this machine", memory: limit.bytes / ranks, peak: 1e9 * ceilings.gigaflops / Double(ranks),
            speed: speed, link: try Self.link(threads: threads), workers: max(1, threads / ranks))

        let all = seconds([.products, .attention, .elements, .optimizer])
        let ofRounds = samples[0].indices.map { round in
            samples.reduce(0) { sum, samples in
                sum + zip(entries, samples[round]).reduce(0) { $0 + Double($1.0.count) * $1.1 }
            } / Double(ranks) / all
        }.sorted()
        spread = ofRounds[ofRounds.count / 4]...ofRounds[ofRounds.count * 3 / 4]
    }

    /// The operations of a step on the rank that has most to do, with a shorter context where they would take long.
    private static func operations(
        of training: PlannedTraining, _ setting: StepRehearsal.Setting, workers: Int
    ) throws -> (StepRehearsal, [OperationLog.Entry]) {
        // Orders of magnitude, to choose the context by.
        let guess = DeviceSpeed(products: 3e10, attention: 2e10, memory: 5e9, launch: 0)
        let link = LinkSpeed(bandwidth: 1, latency: 0)
        var setting = setting
        let nowhere = PlannedDevice(name: "", memory: 0, peak: 1, speed: guess, link: link, workers: workers)
        setting.rank = try Planner(training, on: nowhere).busiestRank(setting)
        while true {
            let log = OperationLog()
            let step = try StepRehearsal(of: training, setting, on: guess, workers: workers, link: link, log: log)
            let round = log.entries.reduce(0) {
                $0 + $1.flops / guess.products / Double(workers) + $1.bytes / guess.memory
            }
            let shorter = setting.context / 2
            if round <= longestRound || shorter < 64 * setting.mesh.sequence { return (step, log.entries) }
            setting.context = shorter
        }
    }

    /// Seconds of each operation in each round; all ranks have equally many rounds. The first one, which takes memory from the system
    /// and wakes threads, is left out.
    private static func samples(
        of entries: [OperationLog.Entry], on device: CPUDevice, with ranks: any Communicator
    ) throws -> [[Double]] {
        let others = Tensor(uninitialised: [otherBytes / 4], .float32, on: device)
        func round() throws -> [Double] {
            try ranks.barrier()
            return try entries.map { entry in
                var operands = entry.operands.map { $0.make(filledWith: 0.01, on: device) }
                // The caches hold something else when a step comes to a large operation.
                if operands.reduce(0, { $0 + $1.byteCount }) > otherBytes / 64 { device.fill(others, with: 1) }
                return try Self.seconds { try entry.run(on: &operands) }
            }
        }
        _ = try round()
        var samples: [[Double]] = []
        let start = ContinuousClock.now
        var goesOn = true
        while goesOn {
            samples.append(try round())
            let elapsed = (ContinuousClock.now - start) / .seconds(1)
            let wantsMore =
                samples.count < rounds.lowerBound || (elapsed < patience && samples.count < rounds.upperBound)
            // One decides for all.
            goesOn = try ranks.broadcast(Message([], integers: [wantsMore ? 1 : 0]), from: 0).integers[0] == 1
        }
        return samples
    }

    /// How two in-process ranks exchange a small and a large tensor.
    private static func link(threads: Int) throws -> LinkSpeed {
        let pieces = try InProcessRanks.run(2, threads: threads) { ranks, device in
            let small = Tensor.zeros([16], .float32, on: device), large = Tensor.zeros([1 << 20], .float32, on: device)
            func hop(_ x: Tensor) throws -> Double {
                let runs = try (0..<15).map { _ in
                    try Self.seconds { _ = try ranks.startRotate(Message([x])).wait() }
                }
                return mean(ofMiddleHalf: runs)
            }
            return (latency: try hop(small), large: try hop(large))
        }[0]
        return LinkSpeed(
            bandwidth: Double(4 << 20) / max(1e-9, pieces.large - pieces.latency), latency: pieces.latency,
            overlaps: false)
    }

    private static func seconds(_ body: () throws -> Void) rethrows -> Double {
        let start = ContinuousClock.now
        try body()
        return (ContinuousClock.now - start) / .seconds(1)
    }
}

/// The mean of what is left of some numbers without the lowest and the highest quarter.
private func mean(ofMiddleHalf numbers: [Double]) -> Double {
    let sorted = numbers.sorted()
    let middle = sorted[sorted.count / 4..<sorted.count - sorted.count / 4]
    return middle.reduce(0, +) / Double(middle.count)
}
