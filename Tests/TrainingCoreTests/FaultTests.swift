import AttentionCore
import Foundation
import Synchronization
import TensorCore
import Testing
import TrainingCore

/// A rank that fails, and numbers that are not finite.
@Suite struct FaultTests {
    /// The debug model has two layers, so a step is calls 1 and 2 forward, 3 and 4 backward.
    @Test(arguments: [(1, "forward"), (4, "backward"), (7, "backward of the second step")])
    func allRanksEndWithTheErrorOfTheOneThatThrew(_ call: Int, _ phase: String) throws {
        let ended = Mutex<[Int: String]>([:])
        let begin = Date()
        #expect(throws: InjectedFault(call: call)) {
            try Job("attention.backend=ring", "parallel.sequence=3").onRanks(wrap: { backend, communicator in
                communicator.rank == 2 ? FaultyAttention(backend, call: call, .throws) : backend
            }) { trainer, _ in
                let rank = trainer.mesh.world.rank
                do {
                    _ = try trainer.losses(3)
                } catch {
                    ended.withLock { $0[rank] = "\(error)" }
                    throw error
                }
            }
        }
        // At once, and not when the deadline of 60 s has passed.
        #expect(Date().timeIntervalSince(begin) < 20)
        let errors = ended.withLock { $0 }
        #expect(errors.count == 3)
        for rank in [0, 1] {
            #expect(errors[rank]?.contains("rank 2 failed: InjectedFault(call: \(call))") == true)
        }
    }

    @Test func aRankThatFailsInAnEvaluationEndsAll() throws {
        let job = try Job("attention.backend=ring", "parallel.sequence=3", "data.validation=0.01")
        #expect(throws: InjectedFault(call: 3)) {
            try job.onRanks(wrap: { backend, communicator in
                communicator.rank == 1 ? FaultyAttention(backend, call: 3, .throws) : backend
            }) { trainer, _ in
                _ = try trainer.evaluate(Array(job.run.dataset.evaluationBatches(rowsPerBatch: 2)))
            }
        }
    }

    /// A rank that says nothing is an error that names it, after the deadline.
    @Test func aSilentRankIsNamed() throws {
        let error = fault {
            try Job("attention.backend=ring", "parallel.sequence=3").onRanks(deadline: 0.5) { trainer, _ in
                if trainer.mesh.world.rank != 1 { _ = try trainer.losses(1) }
            }
        }
        #expect(error?.code == .interrupted)
        #expect(error?.message.contains("lost rank 1") == true)
        #expect(error?.message.contains("within 0.5 s, in the attention of layer 0") == true, "\(error?.message ?? "")")
    }

    @Test(arguments: [(5, "loss"), (7, "gradient")], [1, 3])
    func whatIsNotFiniteStopsTheRunAndNamesTheStep(_ fault: (call: Int, what: String), _ ranks: Int) throws {
        let backend = ranks == 1 ? "cpu" : "ring"
        let job = try Job("attention.backend=\(backend)", "parallel.sequence=\(ranks)")
        let errors = Mutex<[RingZooError]>([])
        #expect(throws: RingZooError.self) {
            try job.onRanks(wrap: { backend, communicator in
                // The last rank alone: the decision must not be rank 0's.
                communicator.rank == ranks - 1 ? FaultyAttention(backend, call: fault.call, .notANumber) : backend
            }) { trainer, _ in
                _ = try trainer.takeStep()
                let before = trainer.contents
                do {
                    _ = try trainer.takeStep()
                } catch let error as RingZooError {
                    #expect(differences(trainer.contents, before) == [])
                    errors.withLock { $0.append(error) }
                    throw error
                }
            }
        }
        let seen = errors.withLock { $0 }
        #expect(seen.count == ranks)
        for error in seen {
            #expect(error.code == .failed)
            // A rank that still waits for another's last message hears of it from the first that knows.
            #expect(error.message.contains("step 2: the \(fault.what) is not finite"))
            #expect(error.description.contains("run.onNonFinite: skip"))
        }
    }

    @Test(arguments: [5, 7], [1, 3])
    func aSkippedStepChangesNothingAndTrainingGoesOn(_ call: Int, _ ranks: Int) throws {
        let backend = ranks == 1 ? "cpu" : "ring"
        let job = try Job("attention.backend=\(backend)", "parallel.sequence=\(ranks)", "run.onNonFinite=skip")
        let ended = try job.onRanks(wrap: { backend, communicator in
            communicator.rank == ranks - 1 ? FaultyAttention(backend, call: call, .notANumber) : backend
        }) { trainer, _ in
            let first = try trainer.takeStep()
            let before = trainer.contents
            let second = try trainer.takeStep()
            #expect(differences(trainer.contents, before) == [])
            #expect(!first.skipped && second.skipped)
            #expect(trainer.step == 2 && trainer.skipped == 1)
            let rest = try trainer.run(4)
            #expect(rest.allSatisfy { !$0.skipped && $0.loss.isFinite })
            #expect(rest.map(\.step) == [3, 4, 5, 6])
            #expect(!differences(trainer.contents, before).isEmpty)
            return trainer.contents
        }
        for other in ended { #expect(differences(other, ended[0]) == []) }
    }

    /// A run that skips for ever would never say that it learns nothing.
    @Test func skippingEndsAfterTenInARow() throws {
        let limit = TrainingPlan.skipLimit
        // Steps of 4 calls; one good step lies between two bad stretches, the first of which is one short of the limit.
        let bad = [1...4 * (limit - 1), 4 * limit + 1...8 * limit]
        let job = try Job("attention.backend=cpu", "run.onNonFinite=skip")
        let error = fault {
            try job.onRanks(wrap: { backend, _ in
                bad.reduce(backend) { FaultyAttention($0, calls: $1, .notANumber) }
            }) { trainer, _ in
                let reports = try trainer.run(2 * limit - 1)
                #expect(reports.map(\.skipped) == (1...2 * limit - 1).map { $0 != limit })
                _ = try trainer.takeStep()
            }
        }
        #expect(error?.code == .failed)
        #expect(error?.message.hasPrefix("step \(2 * limit): ") == true)
        #expect(error?.message.hasSuffix("like those of the \(limit - 1) steps before") == true)
    }
}
