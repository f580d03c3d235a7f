import CheckpointCore
import ConformanceKit
import Foundation
import Testing

/// The program itself, ended by force and by signals.
@Suite struct TrainingKillTests {
    static let kills = 20
    /// Far more than the kills let pass, so that each finds the program at work.
    static let steps = 600

    @Test func killsLoseNothingAndChangeNothing() throws {
        let folder = try TrainingFolder()
        let settings = ["--set", "run.steps=\(Self.steps)", "--set", "run.keep=2"]
        func arguments(_ directory: String, every: String) throws -> [String] {
            ["train", try folder.config(directory, name: directory + ".yaml"), "--resume"] + settings
                + ["--set", "run.checkpointEvery=\(every)"]
        }
        #expect(try TrainingProgram.run(arguments("straight", every: "none"), in: folder).code == 0)

        let killed = try arguments("killed", every: "1")
        let checkpoints = folder.file("killed/checkpoints")
        func isSaving() -> Bool {
            let names = (try? FileManager.default.contentsOfDirectory(atPath: checkpoints)) ?? []
            return names.contains { $0.hasSuffix("-partial") }
        }
        let seed = UInt64.random(in: 0...UInt64.max)
        var random = SplitMix64(seed: seed)
        var duringSaves = 0
        for number in 0..<Self.kills {
            let before = folder.steps("killed").last ?? 0
            // A third before there is anything new, the others between two steps or in a save: the run gets on whatever the seed.
            let wanted = before + number % 3
            let program = try TrainingProgram(killed, in: folder)
            program.watch { (folder.steps("killed").last ?? 0) >= wanted }
            if number % 2 == 1 { program.watch(until: isSaving) }
            let end = Date().addingTimeInterval(.random(in: 0...(number % 2 == 1 ? 0.002 : 0.015), using: &random))
            program.watch { Date() >= end }
            program.send(SIGKILL)
            #expect(program.wait() == -SIGKILL, "kill \(number) of seed \(seed): \(program.said)")
            if isSaving() { duringSaves += 1 }

            guard FileManager.default.fileExists(atPath: checkpoints) else { continue }
            let newest = try CheckpointDirectory.newest(in: checkpoints)
            #expect(newest.damaged.isEmpty, "kill \(number) of seed \(seed)")
            #expect((newest.reader == nil) == (folder.steps("killed").isEmpty), "kill \(number) of seed \(seed)")
            #expect((folder.steps("killed").last ?? 0) >= before, "kill \(number) of seed \(seed)")
        }
        #expect(duringSaves > 0, "seed \(seed): no kill met a save")
        let lastKill = try #require(folder.steps("killed").last)
        #expect(lastKill > Self.kills / 2 && lastKill < Self.steps, "seed \(seed)")

        let end = try TrainingProgram.run(arguments("killed", every: "none"), in: folder)
        #expect(end.code == 0, "seed \(seed): \(end.said)")
        // Each step once, and all of it as if nothing had happened.
        #expect(try folder.losses("killed") == folder.losses("straight"), "seed \(seed)")
        #expect(try folder.losses("killed").map(\.step) == Array(1...Self.steps))
        let (resumed, straight) = (
            try folder.tensors("killed", step: Self.steps), try folder.tensors("straight", step: Self.steps)
        )
        #expect(trainingDifferences(resumed, straight) == [], "seed \(seed)")
        #expect(!isSaving())
    }

    @Test(arguments: [SIGTERM, SIGINT, SIGUSR1])
    func aSignalSavesAndEndsWith75(_ signal: Int32) throws {
        let folder = try TrainingFolder()
        let config = try folder.config("run")
        let settings = ["--set", "run.steps=1000000", "--set", "optimizer.warmup=10"]
        let program = try TrainingProgram(["train", config] + settings, in: folder)
        program.watch { ((try? folder.losses("run").count) ?? 0) >= 3 }
        program.send(signal)
        #expect(program.wait() == 75, "\(program.said)")
        let saved = try #require(folder.steps("run").last)
        #expect(folder.steps("run").count == 1)
        #expect(try folder.losses("run").last?.step == saved)
        #expect(program.said.contains("stopped on request at step \(saved)"))

        let more = settings + ["--set", "run.stopAfter=\(saved + 4)"]
        let resumed = try TrainingProgram.run(["train", config, "--resume"] + more, in: folder)
        #expect(resumed.code == 0, "\(resumed.said)")
        #expect(resumed.said.contains("resumed after step \(saved)"))
        #expect(!resumed.said.contains("bit-equal"))
        let straight = try TrainingProgram.run(["train", try folder.config("straight")] + more, in: folder)
        #expect(straight.code == 0, "\(straight.said)")
        #expect(try folder.losses("run") == folder.losses("straight"))
        #expect(
            try trainingDifferences(folder.tensors("run", step: saved + 4), folder.tensors("straight", step: saved + 4))
                == [])
    }

    @Test func aSecondSignalEndsAtOnce() throws {
        let folder = try TrainingFolder()
        // A step that takes seconds: the first signal cannot have been obeyed when the second arrives.
        let program = try TrainingProgram(
            ["train", try folder.config("run"), "--set", "data.context=8192", "--set", "data.batch=8"], in: folder)
        program.watch { program.said.contains("attention: cpu") }
        program.send(SIGTERM)
        program.watch { program.said.contains("a second signal ends at once") }
        program.send(SIGTERM)
        #expect(program.wait() == 128 + SIGTERM, "\(program.said)")
        #expect(folder.steps("run").isEmpty)
    }
}
