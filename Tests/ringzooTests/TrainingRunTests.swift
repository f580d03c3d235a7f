import CheckpointCore
import Foundation
import Synchronization
import TensorCore
import Testing
import TrainingCore
import ZooCore
import ZooStandard

/// A run from its config to its checkpoints and back.
@Suite struct TrainingRunTests {
    /// Losses of runs whose sums are taken in another order differ by a few of float32's last bits.
    static let otherOrder = 1e-5

    @Test func theConfigThatIsWrittenBackIsTheSame() throws {
        let folder = try TrainingFolder()
        let run = try folder.run(
            "run", "run.steps=2", "data.accumulate=2", "memory.budget=1GiB", "optimizer.clip=none", "run.stopAfter=1")
        try run.logged()
        let again = try RunConfig.load(path: folder.file("run/config.yaml"))
        #expect(again == run.config)
        // And a run can be made of it.
        _ = try TrainingRun(again, in: ZooStandard.zoo()).logged(resume: true)
    }

    @Test func metricsHaveEachStepOnceWithTheBytesOfEachRank() throws {
        let folder = try TrainingFolder()
        let run = try folder.run(
            "run", "run.steps=6", "run.evaluateEvery=3", "run.checkpointEvery=2", "attention.backend=ring",
            "parallel.sequence=3")
        let (summary, log) = try run.logged()
        #expect(summary.complete && !summary.interrupted && summary.step == 6)
        let metrics = try folder.metrics("run")
        let steps = metrics.filter(\.isStep)
        #expect(steps.map(\.step) == [1, 2, 3, 4, 5, 6])
        let evaluations = metrics.filter { !$0.isStep }
        #expect(evaluations.map(\.step) == [3, 6])
        #expect(evaluations.map(\.validationLoss) == log.evaluations)
        #expect(steps.map(\.loss) == log.steps.map(\.report.loss))
        #expect(log.steps.allSatisfy { $0.report.tokens == 64 && $0.report.targets == 64 })
        for step in steps {
            let peaks = try #require(step.peakBytes)
            #expect(peaks.count == 3 && peaks.allSatisfy { $0 > 0 })
            // Weights, and the two tensors of the optimizer's state; and at most one gradient beside its sum over ranks.
            let state = try #require(step.stateBytes)
            let bytes = 4 * run.blueprint.parameterCount
            #expect(state.count == 3 && state.allSatisfy { $0 >= 4 * bytes && $0 <= 5 * bytes })
        }
        #expect(folder.steps("run") == [2, 4, 6])
    }

    /// `stopAfter` is how a long schedule is done in parts.
    @Test func stoppingEarlyAndGoingOnEqualsNeverStopping() throws {
        let folder = try TrainingFolder()
        let schedule = ["optimizer.warmup=5", "run.evaluateEvery=4"]
        func run(_ directory: String, _ settings: String...) throws -> TrainingRun {
            try TrainingRun(
                RunConfig.load(path: folder.config(directory), overrides: schedule + settings), in: ZooStandard.zoo(),
                threads: 1)
        }
        let (whole, straight) = try run("straight").logged()
        #expect(whole.complete)
        let (first, start) = try run("parts", "run.stopAfter=3").logged()
        #expect(first.step == 3 && !first.complete && !first.interrupted)
        let (second, middle) = try run("parts", "run.stopAfter=11").logged(resume: true)
        #expect(second.step == 11 && !second.complete)
        #expect(middle.resumed?.step == 3 && middle.resumed?.inexact == nil)
        let (third, end) = try run("parts").logged(resume: true)
        #expect(third.step == 20 && third.complete)
        let parts = [start, middle, end].flatMap(\.steps)
        #expect(parts.map(\.report.rate) == straight.steps.map(\.report.rate))
        #expect(parts.map(\.report.loss) == straight.steps.map(\.report.loss))
        #expect(try folder.losses("parts") == folder.losses("straight"))
        #expect(try trainingDifferences(folder.tensors("parts", step: 20), folder.tensors("straight", step: 20)) == [])
        // Nothing is left to do.
        let (nothing, log) = try run("parts").logged(resume: true)
        #expect(nothing.complete && log.steps.isEmpty)
        #expect(try folder.losses("parts") == folder.losses("straight"))
    }

    @Test func anotherNumberOfRanksGoesOnCloselyAndSaysSo() throws {
        let folder = try TrainingFolder()
        let (_, straight) = try folder.run("straight").logged()
        try folder.run("run", "run.stopAfter=8").logged()
        let ring = ["attention.backend=ring", "attention.local=cpu"]
        let (_, two) = try TrainingRun(
            RunConfig.load(
                path: folder.config("run"), overrides: ring + ["parallel.sequence=2", "run.stopAfter=14"]),
            in: ZooStandard.zoo(), threads: 2
        ).logged(resume: true)
        #expect(two.resumed?.inexact?.contains("ranks: 1 before, 2 now") == true)
        let (_, three) = try TrainingRun(
            RunConfig.load(path: folder.config("run"), overrides: ring + ["parallel.sequence=3"]),
            in: ZooStandard.zoo(), threads: 3
        ).logged(resume: true)
        #expect(three.resumed?.inexact?.contains("ranks: 2 before, 3 now") == true)
        let losses = (two.steps + three.steps).map(\.report.loss)
        #expect(losses.count == 12)
        for (loss, reference) in zip(losses, straight.steps.dropFirst(8).map(\.report.loss)) {
            #expect(abs(loss - reference) / reference < Self.otherOrder)
        }
    }

    /// Bits change from program to program. Checkpoints from before programs were recorded do not name theirs.
    @Test func anotherProgramGoesOnAndSaysSo() throws {
        let folder = try TrainingFolder()
        try folder.run("straight", "run.steps=4").logged()
        let this = ProgramIdentity.this
        let earlier: [(program: [String: String]?, said: String)] = [
            (nil, "an unnamed one"),
            (["version": this.version, "commit": "0123456789ab"], "\(this.version) (0123456789ab)"),
            (["version": "0.0.1"], "0.0.1 (commit unknown)"),
        ]
        for (index, (program, said)) in earlier.enumerated() {
            let directory = "run\(index)"
            try folder.run(directory, "run.steps=4", "run.stopAfter=2").logged()
            try folder.rewriteEnvironment(directory, step: 2) { $0["program"] = program }
            let resumed = try TrainingProgram.run(
                ["train", try folder.config(directory), "--set", "run.steps=4", "--resume"], in: folder)
            #expect(resumed.code == 0, "\(resumed.said)")
            let reason = "another program: \(said) before, \(this) now"
            #expect(resumed.said.contains("may not be bit-equal, to an undisturbed run (\(reason))"), "\(resumed.said)")
            // It was this program all the same.
            #expect(try folder.losses(directory) == folder.losses("straight"))
        }
    }

    @Test func aRequestToStopIsObeyedByAllRanks() throws {
        let folder = try TrainingFolder()
        let stop = StopRequest()
        let summary = try folder.run("run", "attention.backend=ring", "parallel.sequence=3").train(
            resume: false, stop: stop
        ) { event in
            if case .stepped(let measure) = event, measure.report.step == 4 { stop.make() }
        }
        #expect(summary.interrupted && !summary.complete && summary.step == 5)
        #expect(folder.steps("run") == [5])
    }

    /// There is nothing to run again for: code 75 would be wrong.
    @Test func aRequestInTheLastStepInterruptsNothing() throws {
        let folder = try TrainingFolder()
        let stop = StopRequest()
        stop.make()
        let (summary, log) = try folder.run("run", "run.steps=1", "run.evaluateEvery=1").logged(stop: stop)
        #expect(summary.complete && !summary.interrupted)
        #expect(log.evaluations.count == 1)
    }

    @Test func anErrorOfRankZeroEndsAllRanks() throws {
        struct Injected: Error {}
        let folder = try TrainingFolder()
        let run = try folder.run("run", "attention.backend=ring", "parallel.sequence=3")
        let begin = Date()
        #expect(throws: Injected.self) {
            try run.train(resume: false) { event in
                if case .stepped(let measure) = event, measure.report.step == 2 { throw Injected() }
            }
        }
        #expect(Date().timeIntervalSince(begin) < 20)
    }

    @Test func aDirectoryWithARunIsNotStartedOver() throws {
        let folder = try TrainingFolder()
        try folder.run("run", "run.steps=2").logged()
        let before = try folder.contents("run")
        let error = trainingFault { try folder.run("run", "run.steps=3").logged() }
        #expect(error?.code == .config)
        #expect(error?.description.contains("--resume") == true)
        #expect(try trainingDifferences(folder.contents("run"), before) == [])
    }

    /// No thread of a run that has returned still holds the lock.
    @Test func aDirectoryIsFreeWhenTheRunHasReturned() throws {
        let folder = try TrainingFolder()
        for step in 1...12 {
            let summary = try folder.run(
                "run", "run.steps=12", "run.stopAfter=\(step)", "attention.backend=ring", "parallel.sequence=4",
                "model.layers=1"
            ).logged(resume: true).summary
            #expect(summary.step == step)
        }
    }

    @Test func aLossThatIsNotFiniteStopsAndKeepsWhatWasGood() throws {
        let folder = try TrainingFolder()
        // So large a rate that the next loss overflows.
        let wild = ["optimizer.rate=1e30", "optimizer.clip=none", "optimizer.warmup=0"]
        func run(_ directory: String, _ settings: String...) throws -> TrainingRun {
            try TrainingRun(
                RunConfig.load(path: folder.config(directory), overrides: settings), in: ZooStandard.zoo(), threads: 1)
        }
        try run("run", "run.stopAfter=3").logged()
        let tamed = try folder.tensors("run", step: 3)
        let log = EventLog()
        let error = trainingFault {
            _ = try run("run", wild[0], wild[1], wild[2], "run.checkpointEvery=none").train(resume: true) {
                log.add($0)
            }
        }
        #expect(error?.code == .failed)
        let failed = 3 + log.steps.count + 1
        #expect(error?.message.hasPrefix("step \(failed): the ") == true, "\(error?.message ?? "")")
        #expect(error?.message.contains("is not finite") == true)
        #expect(folder.steps("run") == [3])
        #expect(try trainingDifferences(folder.tensors("run", step: 3), tamed) == [])
        // Told to, it goes on and says which steps did nothing, but not for ever.
        let skipping = EventLog()
        let endless = trainingFault {
            _ = try run("run", wild[0], wild[1], wild[2], "run.onNonFinite=skip").train(resume: true) {
                skipping.add($0)
            }
        }
        let skipped = TrainingPlan.skipLimit - 1
        #expect(endless?.code == .failed)
        #expect(endless?.message.hasSuffix("like those of the \(skipped) steps before") == true)
        #expect(skipping.steps.suffix(skipped).allSatisfy { $0.report.skipped })
        let lines = try folder.metrics("run")
        #expect(lines.map(\.step) == Array(1...3 + skipping.steps.count))
        #expect(lines.last?.loss == nil && lines.last?.skipped == true)
    }

    /// Writing takes longer than a silent peer is given; the others know that rank 0 is alive.
    @Test func aSlowSaveIsNotALostRank() throws {
        let folder = try TrainingFolder()
        let run = try folder.run(
            "run", "run.steps=4", "run.checkpointEvery=2", "attention.backend=ring", "parallel.sequence=3",
            "parallel.deadline=1")
        let slow = FaultyFileSystem { call, _ in
            guard call == .synchronize else { return }
            let end = Date().addingTimeInterval(1.5)
            while Date() < end { sched_yield() }
        }
        let (summary, log) = try run.logged(fileSystem: slow)
        #expect(summary.complete)
        #expect(folder.steps("run") == [2, 4])
        // The thread that wrote has let go of the weights: the next step copied none of them.
        let bytes = 4 * run.blueprint.parameterCount
        #expect(log.steps.last!.stateBytes.allSatisfy { $0 <= 5 * bytes })
    }
}
