import Foundation
import TensorCore
import Testing
import TrainingCore

/// A trainer that goes on from a saved state does what the one that was never stopped does, to the bit.
@Suite struct ResumeTests {
    /// Around the end of warm-up (4 steps), and on both sides of the ends of epochs: the short text has 11 rows an epoch, a step
    /// reads 4, so epochs end inside of steps and of batches.
    static let stops = [1, 3, 4, 5, 8, 11]
    static let steps = 12

    @Test(arguments: [1, 2, 4])
    func goingOnEqualsNeverStopping(_ ranks: Int) throws {
        let short = FileManager.default.temporaryDirectory.appendingPathComponent("ringzoo-\(UUID().uuidString).txt")
        try Data(try Data(contentsOf: URL(fileURLWithPath: corpus)).prefix(400)).write(to: short)
        defer { try? FileManager.default.removeItem(at: short) }
        let job = try Job(
            "data.path=\(short.path)", "optimizer.warmup=4", "run.steps=\(Self.steps)", "data.accumulate=2",
            "attention.backend=\(ranks == 1 ? "cpu" : "ring")", "parallel.sequence=\(ranks)")
        struct Saved: Sendable {
            var text: String
            var contents: [String: [UInt8]]
        }
        let straight = try job.onRanks { trainer, _ in
            var results: [StepReport] = []
            var saved: [Int: Saved] = [:]
            for step in 1...Self.steps {
                results.append(try trainer.takeStep())
                if Self.stops.contains(step) {
                    saved[step] = Saved(text: try trainer.stateText(), contents: trainer.contents)
                }
            }
            return (results: results, saved: saved, end: trainer.contents, text: try trainer.stateText())
        }
        // The position has passed more than one epoch.
        #expect(straight[0].text.contains("\"epoch\":4"))
        for stop in Self.stops {
            let resumed = try job.onRanks { trainer, device in
                // Rank 0's state is the only one that is saved.
                let saved = straight[0].saved[stop]!
                try trainer.goOn(from: saved.text, contents: saved.contents, on: device)
                return (
                    results: try trainer.run(Self.steps - stop), end: trainer.contents, text: try trainer.stateText()
                )
            }
            for rank in 0..<ranks {
                #expect(resumed[rank].results == Array(straight[0].results.dropFirst(stop)), "stopped at \(stop)")
                #expect(differences(resumed[rank].end, straight[0].end) == [], "stopped at \(stop)")
            }
        }
    }
}
