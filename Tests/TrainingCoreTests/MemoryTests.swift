import Foundation
import TensorCore
import Testing

/// What a step may hold, by the ledger.
@Suite struct MemoryTests {
    /// A silent copy of weights or state in a step would show as a peak above what is there before and after.
    @Test(arguments: [1, 2])
    func aStepCopiesNoWeightsAndNoOptimizerState(_ ranks: Int) throws {
        let job = try Job(
            "attention.backend=\(ranks == 1 ? "cpu" : "ring")", "parallel.sequence=\(ranks)", "data.accumulate=2")
        let bytes = 4 * job.run.blueprint.parameterCount
        try job.onRanks { trainer, device in
            for _ in 0..<3 {
                #expect(device.ledger.live(.parameters) == bytes)
                #expect(device.ledger.live(.optimizer) == 2 * bytes)
                device.ledger.resetPeak()
                _ = try trainer.takeStep()
                #expect(device.ledger.peak(.parameters) == bytes)
                #expect(device.ledger.peak(.optimizer) == 2 * bytes)
                // The sum, and at most the gradient being added to it.
                #expect(device.ledger.peak(.gradients) <= 2 * bytes)
                #expect(device.ledger.live(.gradients) == 0)
            }
        }
    }

    /// After the first steps all memory is that of earlier ones: nothing is asked of the system, and the kernel has no page to hand
    /// out. Swift's own small objects may still touch a new page now and then.
    @Test func aSteadyStepTakesNoMemoryFromTheSystem() throws {
        let faultsAllowed = 16
        let job = try Job("data.context=256", "data.batch=4")
        try job.onRanks { trainer, device in
            _ = try trainer.losses(3)
            let (before, faults) = (device.systemAllocations, minorFaults())
            _ = try trainer.losses(8)
            #expect(device.systemAllocations == before)
            let found = minorFaults() - faults
            #expect(found <= 8 * faultsAllowed, "\(found) page faults in 8 steps")
        }
    }

    @Test(arguments: [1, 2])
    func aBudgetTooSmallIsAnErrorThatSaysWhatToDo(_ ranks: Int) throws {
        let ring = ["attention.backend=\(ranks == 1 ? "cpu" : "ring")", "parallel.sequence=\(ranks)"]
        let peak = try Job(ring).onRanks { trainer, device in
            _ = try trainer.losses(1)
            return device.ledger.peak()
        }.max()!
        let error = fault {
            try Job(ring + ["memory.budget=\(peak / 2)"]).onRanks { trainer, _ in _ = try trainer.losses(1) }
        }
        #expect(error?.code == .failed)
        #expect(error?.description.contains("budget is \(peak / 2) bytes") == true)
        #expect(error?.description.contains("memory.budget") == true)
        // The same budget is enough where it is not too small.
        try Job(ring + ["memory.budget=\(peak * 5 / 4)"]).onRanks { trainer, _ in _ = try trainer.losses(1) }
    }
}

/// Pages that the kernel gave this process without reading a disk.
private func minorFaults() -> Int {
    var usage = rusage()
    getrusage(__rusage_who_t(RUSAGE_SELF.rawValue), &usage)
    return usage.ru_minflt
}
