import CheckpointCore
import ConformanceKit
import DistributedCore
import Foundation
import TensorCore
import Testing
import ZooCore
import ZooStandard

/// One run on three ranks that meets a fault, and the run that goes on from its last checkpoint.
struct FaultTrial {
    /// How the run that meets the fault ended.
    struct End {
        var code: Int32
        var said: String
        /// From the fault to the end, or from the start where that is not known.
        var seconds: Double
    }

    static let (ranks, culprit, steps) = (3, 1, 8)
    /// Rotations of a rank in one step: two layers of N - 1 forward and 2 N - 1 backward.
    static let rotations = 2 * (ranks - 1 + 2 * ranks - 1)
    /// The first of layer 1, forward, in step 5.
    static let harmedRotation = 4 * rotations + ranks - 1
    /// The first packet of this kind that rank 1 sends in the save of step 6: two after each step, two in each save.
    static let harmedGather = 2 * 6 + 2 * 2

    let kind: FaultKind
    private let folder: TrainingFolder

    init(_ kind: FaultKind) throws {
        self.kind = kind
        folder = try TrainingFolder()
    }

    /// Seconds a rank waits for a silent peer; processes share two cores with mpirun.
    var deadline: Double { kind.needsProcesses ? 2.5 : 1 }

    private func settings(ranks: Int, _ more: [String] = []) -> [String] {
        [
            "attention.backend=ring", "attention.local=cpu", "parallel.sequence=\(ranks)",
            "parallel.deadline=\(deadline)", "run.steps=\(Self.steps)", "run.checkpointEvery=2",
        ] + more
    }

    /// Whoever sends a signal from outside needs time: the run must not end by itself.
    var isEndless: Bool { if case .signal = kind.cause { true } else { false } }

    private var endless: [String] { isEndless ? ["run.steps=100000", "optimizer.warmup=10"] : [] }

    // MARK: With the fault

    func run() throws -> End {
        switch kind.cause {
        case .block(let fault, between: .processes):
            let place = [fault.rawValue, "\(Self.culprit)", "\(Self.harmedRotation)", "\(2 * deadline)"]
            let arguments = try [folder.config("run")] + settings(ranks: Self.ranks)
            return try onProcesses([RankProgram.path, "train"] + place + arguments)
        case .block(let fault, between: .threads):
            return try onThreads { link in
                link.rank == Self.culprit
                    ? FaultyLink(link, fault, packet: Self.harmedRotation, of: .rotate, delay: 2 * deadline) : link
            }
        case .cutOffInSave:
            return try onThreads { link in
                link.rank == Self.culprit
                    ? FaultyLink(link, .cutOff, packet: Self.harmedGather, of: .allGather) : link
            }
        case .memory:
            return try onThreads { link in
                link
            } observe: { event, threads in
                if case .saved(4, _) = event { threads.device(ofRank: Self.culprit)?.ledger.budget = 1 }
            }
        case .disk(let failing, let words):
            let disk = FaultyFileSystem { call, path in
                if call == failing && path.contains("step-00000006") {
                    throw RingZooError(.inputOutput, "cannot write \(path): \(words)")
                }
            }
            return try onThreads(disk) { link in link }
        case .checkpoint(let isCut):
            let end = try soundStart()
            try harmNewestCheckpoint(isCut: isCut)
            return end
        case .signal(let signal):
            return try onProcesses(signal)
        case .otherConfig:
            _ = try soundStart()
            let other = try train(["optimizer.rate=2e-3"])
            return try onProcesses(sound(), culprit: [TrainingProgram.path] + other)
        case .otherVersion:
            _ = try soundStart()
            return try onProcesses(sound(), culprit: [RankProgram.path, "version", "0.0.0-other"])
        case .lateStart:
            _ = try soundStart()
            let late = ([TrainingProgram.path] + (try train())).map { "'\($0)'" }.joined(separator: " ")
            return try onProcesses(sound(), culprit: ["sh", "-c", "sleep 1; exec \(late)"])
        }
    }

    /// Four steps in which nothing goes wrong.
    private func soundStart() throws -> End {
        let begin = MonotonicClock.seconds
        try trainingRun(ranks: Self.ranks, ["run.stopAfter=4"]).logged()
        return End(code: 0, said: "", seconds: MonotonicClock.seconds - begin)
    }

    private func trainingRun(ranks: Int, _ more: [String], in zoo: Zoo? = nil) throws -> TrainingRun {
        let config = try RunConfig.load(
            path: folder.config("run"), overrides: settings(ranks: ranks, endless + more))
        return try TrainingRun(config, in: zoo ?? ZooStandard.zoo(), threads: 1)
    }

    private func onThreads(
        _ disk: any FileSystem = POSIXFileSystem(), _ decorate: @escaping @Sendable (any Link) -> any Link,
        observe: @escaping @Sendable (TrainingEvent, FaultyThreads) -> Void = { _, _ in }
    ) throws -> End {
        let threads = FaultyThreads(decorate)
        let run = try trainingRun(ranks: Self.ranks, [], in: threads.zoo())
        let begin = MonotonicClock.seconds
        let error = trainingFault { _ = try run.train(resume: false, fileSystem: disk) { observe($0, threads) } }
        return End(
            code: error?.code.exitCode ?? 0, said: threads.said, seconds: MonotonicClock.seconds - begin)
    }

    private func sound() throws -> [String] { [TrainingProgram.path] + (try train()) }

    /// The arguments of the program, for every rank.
    private func train(_ more: [String] = []) throws -> [String] {
        let all = settings(ranks: Self.ranks, endless + (isEndless ? [] : ["run.stopAfter=6"]) + more)
        return try ["train", folder.config("run"), "--resume"] + all.flatMap { ["--set", $0] }
    }

    /// Every rank is started by this command, rank 1 by another one where there is one.
    private func onProcesses(_ command: [String], culprit: [String]? = nil) throws -> End {
        let begin = MonotonicClock.seconds
        let job = try TrainingProgram(
            onRanks: (0..<Self.ranks).map { $0 == Self.culprit ? culprit ?? command : command }, in: folder)
        let code = job.wait(limit: 60)
        return End(code: code, said: job.said, seconds: MonotonicClock.seconds - begin)
    }

    /// Rank 1 gets a signal after the checkpoint of step 4.
    private func onProcesses(_ signal: Int32) throws -> End {
        let job = try TrainingProgram(onRanks: [[String]](repeating: sound(), count: Self.ranks), in: folder)
        job.watch { job.said.contains("step 4: saved") }
        let begin = MonotonicClock.seconds
        kill(try #require(job.processIdentifier(ofRank: Self.culprit)), signal)
        let code = job.wait(limit: 60)
        return End(code: code, said: job.said, seconds: MonotonicClock.seconds - begin)
    }

    private func harmNewestCheckpoint(isCut: Bool) throws {
        let path = folder.checkpoint("run", step: 4)
        var bytes = try Data(contentsOf: URL(fileURLWithPath: path))
        let middle = bytes.count / 2
        if isCut { bytes.removeSubrange(middle...) } else { bytes[middle] ^= 0x10 }
        try bytes.write(to: URL(fileURLWithPath: path))
    }

    // MARK: After it

    /// The step of the newest checkpoint that is whole; none but one that was harmed on purpose is damaged.
    func lastCheckpoint() throws -> Int {
        let newest = try CheckpointDirectory.newest(in: folder.file("run/checkpoints"))
        var damaged = 0
        if case .checkpoint = kind.cause { damaged = 1 }
        #expect(newest.damaged.count == damaged, "\(newest.damaged)")
        let path = try #require(newest.reader?.path)
        return try #require(folder.steps("run").last { folder.checkpoint("run", step: $0) == path })
    }

    /// Goes on from the last checkpoint, as threads, to the end or (where there is none) for two more steps.
    ///
    /// - Returns: the loss of every step since the first, by step.
    func resume(onRanks ranks: Int) throws -> [StepLoss] {
        let last = try lastCheckpoint()
        let end = isEndless ? last + 2 : Self.steps
        let (summary, log) = try trainingRun(ranks: ranks, ["run.stopAfter=\(end)"]).logged(resume: true)
        #expect(log.resumed?.step == last)
        #expect(summary.step == end)
        return try folder.losses("run")
    }

    /// The same, on as many processes as had the fault.
    func resumeOnProcesses() throws -> [StepLoss] {
        let last = try lastCheckpoint()
        let end = isEndless ? last + 2 : Self.steps
        let program = [TrainingProgram.path] + (try train(["run.stopAfter=\(end)"]))
        let job = try TrainingProgram(onRanks: [[String]](repeating: program, count: Self.ranks), in: folder)
        #expect(job.wait(limit: 60) == 0, "\(job.said)")
        #expect(job.said.contains("resumed after step \(last)"), "\(job.said)")
        return try folder.losses("run")
    }

    /// The losses of a run that met no fault.
    static let straight = Result {
        let folder = try TrainingFolder()
        let settings = [
            "attention.backend=ring", "attention.local=cpu", "parallel.sequence=\(ranks)", "run.steps=\(steps)",
        ]
        let config = try RunConfig.load(path: folder.config("run"), overrides: settings)
        try TrainingRun(config, in: ZooStandard.zoo(), threads: 1).logged()
        return try folder.losses("run")
    }
}
