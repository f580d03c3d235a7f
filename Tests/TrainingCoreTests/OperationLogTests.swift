import DistributedCore
import TensorCore
import Testing
import ZooCore

/// The operations of a rehearsal, which a measurement does one by one.
@Suite struct OperationLogTests {
    static let settings: [[String]] = [
        ["attention.backend=cpu"],
        ["attention.backend=blas", "data.batch=3", "precision=bf16"],
        ["attention.backend=cpu", "memory.rematerialise=block", "optimizer.name=sgd"],
        ["attention.backend=ring", "parallel.sequence=3", "attention.layout=contiguous", "data.context=97"],
        ["attention.backend=mesh", "parallel.sequence=4", "attention.headRanks=2"],
        ["attention.backend=cpu", "parallel.data=2", "parallel.tensor=2", "parallel.shardParameters=true"],
    ]

    private func rehearsal(_ settings: [String]) throws -> (StepRehearsal, [OperationLog.Entry]) {
        let log = OperationLog()
        let run = try Job(settings).run
        let step = try StepRehearsal(
            of: PlannedTraining(run), StepRehearsal.Setting(of: run),
            on: DeviceSpeed(products: 1e12, attention: 1e12, memory: 1e11, launch: 0), workers: 1,
            link: LinkSpeed(bandwidth: 1e10, latency: 0), log: log)
        return (step, log.entries)
    }

    /// Nothing that a rehearsal spends time on is left out.
    @Test(arguments: settings)
    func operationsAddUpToTheStep(_ settings: [String]) throws {
        let (step, entries) = try rehearsal(settings)
        for part in [RehearsalDevice.Part.products, .attention] {
            let flops = entries.filter { $0.part == part }.reduce(0) { $0 + Double($1.count) * $1.flops }
            #expect(flops > 0 && flops == step.spending[part]?.flops, "\(part)")
        }
        let bytes = entries.filter { $0.part == .optimizer }.reduce(0) { $0 + Double($1.count) * $1.bytes }
        #expect(bytes > 0 && bytes == step.spending[.optimizer]?.bytes)
        // What the host writes into tensors (tokens, positions) is no operation of the device.
        let passes = entries.filter { $0.part == .elements }.reduce(0) { $0 + Double($1.count) * $1.bytes }
        let written = step.spending[.elements]!.bytes - passes
        #expect(written >= 0 && written < 0.01 * passes, "\(written) of \(passes) bytes are in no operation")
    }

    /// Each does on a device that computes what it did there, on operands of its own.
    @Test(arguments: settings)
    func everyOperationRunsAlone(_ settings: [String]) throws {
        let device = CPUDevice(threads: 1)
        for entry in try rehearsal(settings).1 {
            var operands = entry.operands.map { $0.make(filledWith: 0.01, on: device) }
            #expect(operands.map { TensorForm($0) } == entry.operands)
            try entry.run(on: &operands)
            try device.ledger.checkFailure()
        }
        #expect(device.ledger.live() == 0)
    }

    /// An operation runs on the values it is given, not only on their shapes.
    @Test func aProductThatWasNotedIsAProduct() throws {
        let product = try #require(try rehearsal(["attention.backend=cpu"]).1.first { $0.name == "matmul" })
        let device = CPUDevice(threads: 1)
        var operands = product.operands.map { $0.make(filledWith: 0.5, on: device) }
        try product.run(on: &operands)
        let depth = Double(product.operands[0].shape.last!)
        #expect(operands[2].doubles.allSatisfy { $0 == 0.25 * depth })
    }

    @Test(arguments: [1, 2])
    func thisMachineIsMeasured(_ ranks: Int) throws {
        let settings = ["attention.backend=\(ranks > 1 ? "ring" : "cpu")", "parallel.sequence=\(ranks)"]
        let run = try Job(settings).run
        let limit = MemoryLimit(bytes: 64 << 20, name: "a limit", isPerProcess: false)
        let machine = try MachineSpeed(
            for: PlannedTraining(run), StepRehearsal.Setting(of: run), threads: ranks, limits: [limit])
        #expect(machine.device.memory == limit.bytes / ranks && machine.device.workers == 1)
        #expect(machine.spread.lowerBound > 0 && machine.spread.upperBound.isFinite)
        let speed = machine.device.speed
        #expect([speed.products, speed.attention, speed.memory].allSatisfy { $0 > 1e6 && $0 < 1e15 }, "\(speed)")
        #expect(!machine.device.link.overlaps)
    }
}
