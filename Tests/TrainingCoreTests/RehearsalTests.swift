import DistributedCore
import Foundation
import NeuralCore
import TensorCore
import Testing
import ZooCore

/// A step that was only rehearsed, against the step itself.
@Suite struct RehearsalTests {
    static let settings: [[String]] = [
        ["attention.backend=cpu"],
        ["attention.backend=blas", "data.batch=3"],
        ["attention.backend=cpu", "precision=bf16"],
        ["attention.backend=cpu", "memory.rematerialise=block", "data.accumulate=2"],
        ["attention.backend=cpu", "memory.feedForwardChunk=8", "memory.lossChunk=16"],
        ["attention.backend=ring", "parallel.sequence=2", "attention.layout=zigzag"],
        ["attention.backend=ring", "parallel.sequence=4", "attention.layout=contiguous", "memory.rematerialise=block"],
        ["attention.backend=ring", "parallel.sequence=3", "attention.layout=striped", "data.context=97"],
        ["attention.backend=ring", "parallel.sequence=5", "attention.layout=zigzag", "precision=bf16"],
        ["attention.backend=cpu", "parallel.data=2"],
        ["attention.backend=cpu", "parallel.tensor=2", "memory.lossChunk=16"],
        ["attention.backend=ring", "parallel.sequence=2", "parallel.shardParameters=true"],
        ["attention.backend=cpu", "parallel.data=2", "parallel.tensor=2", "parallel.shardParameters=true"],
        [
            "attention.backend=ring", "parallel.data=2", "parallel.sequence=2", "parallel.shardParameters=true",
            "precision=bf16",
        ],
        ["attention.backend=ring", "parallel.sequence=3", "parallel.shares=[3, 1, 2]", "data.context=97"],
        ["attention.backend=ulysses", "parallel.sequence=2", "data.context=97"],
        ["attention.backend=ulysses", "parallel.sequence=2", "parallel.shares=[1, 3]", "attention.layout=striped"],
        // Two key/value heads for three ranks: one has none.
        ["attention.backend=ulysses", "parallel.sequence=3", "memory.rematerialise=block"],
        ["attention.backend=ulysses", "parallel.sequence=3", "parallel.shares=[3, 1, 2]", "data.context=97"],
        ["attention.backend=mesh", "parallel.sequence=4", "attention.headRanks=2"],
        ["attention.backend=mesh", "parallel.sequence=4", "attention.layout=contiguous", "data.context=97"],
        ["attention.backend=mesh", "parallel.sequence=6", "attention.headRanks=3", "attention.layout=striped"],
        ["attention.backend=mesh", "parallel.sequence=4", "parallel.shares=[3, 1, 2, 2]", "precision=bf16"],
        ["attention.backend=gather", "parallel.sequence=3", "data.context=97"],
    ]
    /// No test asks for the time.
    private static let speed = DeviceSpeed(products: 1e12, attention: 1e12, memory: 1e11, launch: 1e-6)
    private static let link = LinkSpeed(bandwidth: 1e10, latency: 1e-5)

    private func rehearse(_ job: Job, rank: Int, workers: Int = 1) throws -> StepRehearsal {
        var setting = StepRehearsal.Setting(of: job.run)
        setting.rank = rank
        return try StepRehearsal(
            of: PlannedTraining(job.run), setting, on: Self.speed, workers: workers, link: Self.link)
    }

    @Test(arguments: settings)
    func aRehearsalTakesTheBytesOfTheStep(_ settings: [String]) throws {
        let job = try Job(settings)
        let measured = try job.onRanks { trainer, device in
            device.ledger.resetPeak()
            _ = try trainer.takeStep()
            return MemoryKind.allCases.map { device.ledger.peak($0) } + [device.ledger.peakOfAll]
        }
        for (world, peaks) in measured.enumerated() {
            let rank = world / job.run.mesh.tensor % job.run.mesh.sequence
            let rehearsal = try rehearse(job, rank: rank)
            let rehearsed = MemoryKind.allCases.map { rehearsal.peakBytes[$0]! } + [rehearsal.peakOfAll]
            #expect(rehearsed == peaks, "\(settings), rank \(rank)")
        }
    }

    /// Three ranks do not divide rows of 64: the peers' pieces are not as large as this rank's.
    @Test func unevenRowsAreRefused() throws {
        let sharded = ["attention.backend=ring", "parallel.sequence=3", "parallel.shardParameters=true"]
        let error = fault { _ = try rehearse(Job(sharded), rank: 0) }
        #expect(error?.code == .config && error?.message.contains("3 ranks") == true)
        let job = try Job("attention.backend=ring", "parallel.sequence=3")
        let device = PlannedDevice(name: "small", memory: 1, peak: 1e12, speed: Self.speed, link: Self.link)
        let settings = try Planner(PlannedTraining(job.run), on: device).settings(.init(of: job.run), ranks: 3)
        #expect(!settings.isEmpty && settings.allSatisfy { !$0.shardParameters })
    }

    /// FLOPs of products are 2 a parameter and token forward and 4 backward, but for the embedding, whose rows are looked up.
    @Test func flopsAreThoseOfTheModel() throws {
        let job = try Job("attention.backend=cpu", "data.context=64", "data.batch=1")
        let step = try rehearse(job, rank: 0)
        let (T, M, V, layers) = (64.0, 64.0, 256.0, 2.0)
        let products = step.spending[.products]!.flops
        // Norms have 2 M a layer and M at the end, and no products.
        let weights = Double(job.run.blueprint.parameterCount) - V * M - (2 * layers + 1) * M
        #expect(products == 6 * T * weights)
        // Two products of every visible pair forward, five backward; 4 heads of 16.
        #expect(step.spending[.attention]!.flops == layers * 7 * 2 * 64 * (T * (T + 1) / 2))
    }

    /// Records of 3 to 39 tokens, about three to a row of 64: attention is that within documents, and not that of whole rows.
    @Test(arguments: [1, 2])
    func packedDocumentsAreCountedApart(_ ranks: Int) throws {
        let path = FileManager.default.temporaryDirectory.appendingPathComponent("ringzoo-\(UUID().uuidString)").path
        defer { try? FileManager.default.removeItem(atPath: path) }
        let records = (0..<200).map { number in
            let text = String(repeating: "a", count: 1 + number * 7 % 37)
            return "{\"prompt\": \"\(text)\", \"completion\": \"bc\"}\n"
        }
        try records.joined().write(toFile: path, atomically: true, encoding: .utf8)
        let job = try Job([
            "data.kind=jsonl", "data.path=\(path)", "data.packing=true", "data.context=64",
            "attention.backend=\(ranks == 1 ? "cpu" : "ring")", "parallel.sequence=\(ranks)",
        ])
        // All rows of an epoch, as the trainer sees them.
        var loader = job.run.dataset.makeLoader(rowsPerBatch: 1)
        let rows = (0..<job.run.dataset.trainingTokenCount / 64).map { _ in loader.next() }
        let pairs = rows.map { row in
            Dictionary(grouping: row.documents) { $0 }.values.reduce(0) { $0 + $1.count * ($1.count + 1) / 2 }
        }
        let expected = Double(pairs.reduce(0, +)) / Double(rows.count)
        let step = try rehearse(job, rank: 0)
        // 2 layers, 7 products, 2 FLOPs, 4 heads of 16, and 2 rows a batch of which each rank has its part.
        let planned = step.spending[.attention]!.flops / (2 * 7 * 2 * 64) / 2 * Double(ranks)
        #expect(expected < 0.6 * 64 * 65 / 2, "documents are shorter than rows")
        // Documents of equal length do not divide a row.
        #expect(abs(planned - expected) < 0.15 * expected, "\(planned) pairs a row planned, \(expected) in the data")
        let measured = try job.onRanks { trainer, device in
            device.ledger.resetPeak()
            _ = try trainer.takeStep()
            return device.ledger.peak()
        }[0]
        // Rows whose documents differ keep each row's; the planned ones are alike.
        #expect(abs(step.workingBytes - measured) <= measured / 100, "\(step.workingBytes), \(measured)")
    }

    /// A ring that sends faster than it computes waits for the gradients' sum alone; one that does not waits for the blocks.
    @Test func transferHidesBehindComputation() throws {
        let job = try Job("attention.backend=ring", "parallel.sequence=4", "data.context=2048", "data.batch=1")
        func waiting(_ bandwidth: Double) throws -> Double {
            let setting = StepRehearsal.Setting(of: job.run)
            let step = try StepRehearsal(
                of: PlannedTraining(job.run), setting, on: Self.speed, workers: 1,
                link: LinkSpeed(bandwidth: bandwidth, latency: 0))
            let gradients = 2 * 3 / 4 * Double(4 * job.run.blueprint.parameterCount) / bandwidth
            return step.spending[.communication]!.seconds - gradients
        }
        let (fast, slow) = (try waiting(1e12), try waiting(1e7))
        let launches = 1e-6 * 1000
        #expect(fast < launches)
        // Each layer sends 3 blocks forward, 3 backward and 4 gradients of dK and dV, 512 tokens of 2 heads of 16 each, float32.
        let block = 2.0 * 512 * 2 * 16 * 4
        #expect(slow > 0.9 * 2 * (3 + 3 + 4) * block / 1e7 - launches)
    }

    /// With everything sharded, N devices hold at least N times the context of one: the state that one holds alone is spread, too.
    @Test(arguments: [2, 4, 8])
    func withShardedParametersTheContextGrowsAtLeastNFold(_ ranks: Int) throws {
        func longest(_ settings: [String]) throws -> Int {
            let job = try Job(settings + ["model.layers=8", "data.batch=1", "memory.rematerialise=block"])
            let device = PlannedDevice(name: "small", memory: 48 << 20, peak: 1e12, speed: Self.speed, link: Self.link)
            let planner = Planner(PlannedTraining(job.run), on: device)
            return try planner.longestContext(StepRehearsal.Setting(of: job.run))
        }
        let one = try longest([])
        let ring = ["attention.backend=ring", "parallel.sequence=\(ranks)"]
        let sharded = try longest(ring + ["parallel.shardParameters=true"])
        #expect(one > 1000 && sharded >= ranks * one, "\(sharded) tokens on \(ranks) ranks, \(one) on one")
        #expect(try longest(ring) < sharded)
    }

    @Test func theLongestContextFitsAndTheNextDoesNot() throws {
        let job = try Job("attention.backend=ring", "parallel.sequence=2")
        for megabytes in [4, 16, 200] {
            let device = PlannedDevice(
                name: "small", memory: megabytes << 20, peak: 1e12, speed: Self.speed, link: Self.link)
            let planner = Planner(PlannedTraining(job.run), on: device)
            var setting = StepRehearsal.Setting(of: job.run)
            setting.context = try planner.longestContext(setting)
            #expect(try planner.plan(setting).fits, "\(megabytes) MiB, \(setting.context) tokens")
            setting.context += max(128, setting.context / 100)
            #expect(try !planner.plan(setting).fits, "\(megabytes) MiB, \(setting.context) tokens")
        }
    }
}
