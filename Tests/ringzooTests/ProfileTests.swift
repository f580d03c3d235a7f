import Foundation
import Synchronization
import Testing
import TrainingCore
import ZooCore

/// `ringzoo train --profile`.
@Suite struct ProfileTests {
    /// A file in the Trace Event Format, as far as we write it.
    private struct Trace: Decodable {
        struct Event: Decodable {
            struct Arguments: Decodable { var name: String? }
            var name, cat, ph: String
            var pid, tid: Int
            var ts, dur: Double?
            var args: Arguments
        }
        var traceEvents: [Event]
        var displayTimeUnit: String
    }

    private func profiled(_ run: TrainingRun) throws -> (profile: StepProfile, tracePath: String) {
        let found = Mutex<(StepProfile, String)?>(nil)
        _ = try run.train(resume: false, profile: true) { event in
            if case .profiled(let profile, let path) = event { found.withLock { $0 = (profile, path) } }
        }
        return try #require(found.withLock { $0 })
    }

    @Test func sharesAddUpAndAttentionIsCountedExactly() throws {
        let folder = try TrainingFolder()
        let (profile, _) = try profiled(try folder.run("run", "run.steps=5"))
        #expect(profile.steps == 3 && profile.ranks.count == 1)
        let rows = profile.rows
        #expect(abs(rows.reduce(0) { $0 + $1.share } - 1) < 1e-9)
        #expect(rows.allSatisfy { $0.seconds >= 0 && $0.calls > 0 })
        // Two layers; batch 2, 2 heads of size 16, 32 tokens: 4 D operations a visible pair forward, 10 D backward.
        let pairs = Double(2 * 2 * (32 * 33 / 2))
        for (name, perElement) in [("attention forward", 4.0), ("attention backward", 10.0)] {
            let spans = profile.ranks[0].filter { $0.name == name }
            #expect(spans.count == 3 * 2)
            #expect(spans.allSatisfy { $0.flops == perElement * 16 * pairs })
        }
        #expect(rows.contains { $0.name == "matmul" && $0.gigaflops > 0 && $0.gigabytes > 0 })
        #expect(rows.contains { $0.name == "adamW" } && rows.contains { $0.name == "(between operations)" })
    }

    @Test func theTraceHasTheShapeThatViewersRead() throws {
        let folder = try TrainingFolder()
        let run = try folder.run("run", "run.steps=3", "attention.backend=ring", "parallel.sequence=2")
        let (profile, path) = try profiled(run)
        #expect(profile.steps == 2 && profile.ranks.count == 2)
        #expect(path == folder.file("run/trace.json"))
        let trace = try JSONDecoder().decode(Trace.self, from: Data(contentsOf: URL(fileURLWithPath: path)))
        #expect(trace.displayTimeUnit == "ms")
        let labels = trace.traceEvents.filter { $0.ph == "M" }
        #expect(labels.map { $0.args.name } == ["ringzoo train", "rank 0", "rank 1"])
        for rank in 0..<2 {
            let events = trace.traceEvents.filter { $0.ph == "X" && $0.tid == rank }
            #expect(events.count == profile.ranks[rank].count)
            // Complete events need both times, in microseconds.
            #expect(events.allSatisfy { ($0.ts ?? -1) >= 0 && ($0.dur ?? -1) >= 0 && $0.pid == 0 })
            #expect(zip(events, events.dropFirst()).allSatisfy { $0.ts! <= $1.ts! }, "sorted by time")
            // Each operation lies inside one of the steps; a nanosecond for rounding.
            let steps = events.filter { $0.name == StepProfile.stepName }
            #expect(steps.count == 2)
            #expect(
                events.allSatisfy { event in
                    steps.contains { event.ts! >= $0.ts! - 1e-3 && event.ts! + event.dur! <= $0.ts! + $0.dur! + 1e-3 }
                })
            let names = Set(events.map(\.name))
            #expect(names.isSuperset(of: ["rotate start", "rotate wait", "allReduce", "attention forward", "matmul"]))
        }
    }

    @Test func aProfileChangesNoBitAndIsAbsentUnlessAskedFor() throws {
        let folder = try TrainingFolder()
        _ = try profiled(try folder.run("with", "run.steps=4"))
        try folder.run("without", "run.steps=4").logged()
        #expect(try folder.losses("with") == folder.losses("without"))
        #expect(
            try trainingDifferences(folder.tensors("with", step: 4), folder.tensors("without", step: 4)).isEmpty)
        #expect(!FileManager.default.fileExists(atPath: folder.file("without/trace.json")))
    }

    @Test func aRunOfOneStepProfilesThatStep() throws {
        let folder = try TrainingFolder()
        let (profile, _) = try profiled(try folder.run("run", "run.steps=1"))
        #expect(profile.steps == 1)
    }

    @Test func theCommandPrintsATable() throws {
        let folder = try TrainingFolder()
        let text = try Tool.run(["train", folder.config("run"), "--set", "run.steps=3", "--profile"]).text
        #expect(text.contains("Ceilings measured now") && text.contains("matmul"))
    }
}
