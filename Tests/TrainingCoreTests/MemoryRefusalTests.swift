import TensorCore
import Testing
import ZooCore
import ZooStandard

/// What `ringzoo train` refuses before it takes any memory.
@Suite struct MemoryRefusalTests {
    private func limit(_ bytes: Int, isPerProcess: Bool = false) -> [MemoryLimit] {
        [MemoryLimit(bytes: bytes, name: "the memory of a test", isPerProcess: isPerProcess)]
    }

    /// The run as `Job.onRanks` has it, with one thread a rank: kernels ask for memory per thread.
    private func run(_ settings: [String]) throws -> TrainingRun {
        let run = try Job(settings).run
        return try TrainingRun(run.config, in: ZooStandard.zoo(), threads: run.mesh.ranks)
    }

    /// What a step of all ranks really takes.
    private func bytes(_ job: Job) throws -> Int {
        try job.onRanks { trainer, device in
            device.ledger.resetPeak()
            _ = try trainer.takeStep()
            return device.ledger.peakOfAll
        }.reduce(0, +)
    }

    /// To the byte: a run that fits is never refused, one that lacks a byte is. Ranks of one process share its memory, and need not all
    /// need the same.
    @Test(arguments: [
        ["attention.backend=cpu"],
        ["attention.backend=ring", "parallel.sequence=3", "parallel.shares=[6, 1, 1]", "data.context=97"],
        ["attention.backend=ring", "parallel.sequence=2", "parallel.data=2", "parallel.shardParameters=true"],
    ])
    func whatFitsIsNotRefused(_ settings: [String]) throws {
        let (run, needed) = (try run(settings), try bytes(Job(settings)))
        try run.requireMemory(within: limit(needed))
        let error = fault { try run.requireMemory(within: limit(needed - 1)) }
        #expect(error?.code == .failed && error?.description.contains("the memory of a test") == true)
    }

    /// Its state is one tensor a parameter, where AdamW has two.
    @Test func theRunsOwnOptimizerIsCounted() throws {
        let needed = try bytes(Job(["attention.backend=cpu"]))
        let run = try run(["attention.backend=cpu", "optimizer.name=sgd"])
        try run.requireMemory(within: limit(needed - 4 * run.blueprint.parameterCount))
    }

    @Test func theErrorSaysWhatIsNeededAndWhatWouldFit() throws {
        let long = ["data.context=4096", "data.batch=1", "model.layers=8"]
        let job = try Job(long)
        let error = fault { try job.run.requireMemory(within: limit(48 << 20)) }
        let text = try #require(error?.description)
        #expect(text.contains("1 rank needs ") && text.contains("the memory of a test is 48.0 MiB"))
        for part in ["weights", "gradients", "optimizer state", "activations and ring buffers", "--unplanned"] {
            #expect(text.contains(part), "\(text)")
        }
        // What it proposes is not refused.
        let context = try #require(text.firstMatch(of: /data\.context: (\d+) would fit as it is/)).1
        try Job(long + ["data.context=\(context)"]).run.requireMemory(within: limit(48 << 20))
        #expect(text.contains("rematerialise: block } would fit with this context"), "\(text)")
        try Job(long + ["memory.rematerialise=block"]).run.requireMemory(within: limit(48 << 20))
    }

    @Test func aBudgetIsALimitOfEachRank() throws {
        let ring = ["attention.backend=ring", "parallel.sequence=2"]
        let peak = try Job(ring).onRanks { trainer, device in
            device.ledger.resetPeak()
            _ = try trainer.takeStep()
            return device.ledger.peak()
        }.max()!
        try run(ring + ["memory.budget=\(peak)"]).requireMemory()
        let error = fault { try run(ring + ["memory.budget=\(peak - 1)"]).requireMemory() }
        #expect(error?.description.contains("memory.budget is") == true)
    }
}
