import DistributedCore
import Foundation
import TensorCore
import Testing

/// Every kind of fault, in a run that trains: it never hangs, ends with the code and the words that belong to it, and the last
/// checkpoint goes on, on as many ranks and on others.
///
/// With RINGZOO_TEST_ALL each kind is tried more often, and the table is printed.
@Suite(.serialized) struct FaultTableTests {
    static let full = ProcessInfo.processInfo.environment["RINGZOO_TEST_ALL"] != nil
    static let repetitions = full ? 10 : 2
    /// Numbers of ranks that a run goes on with: where it had three, and elsewhere.
    static let resumes = [3, 2, 3, 4, 3, 1]
    /// Losses of another number of ranks are as near as this, relative, over so few steps.
    static let nearness = 1e-4

    @Test(arguments: FaultKind.betweenThreads)
    func faultsBetweenThreadsAreToldAndCostNoCheckpoint(_ kind: FaultKind) throws { try check(kind) }

    @Test(.enabled(if: RankProgram.mpirun != nil, RankProgram.obstacle), arguments: FaultKind.betweenProcesses)
    func faultsBetweenProcessesAreToldAndCostNoCheckpoint(_ kind: FaultKind) throws { try check(kind) }

    private func check(_ kind: FaultKind) throws {
        var slowest = 0.0
        for repetition in 0..<Self.repetitions {
            let trial = try FaultTrial(kind)
            let end = try within(trial.deadline + 30) { try trial.run() }
            #expect(end.code == kind.code, "\(end.said)")
            #expect(end.seconds < trial.deadline + 5, "\(end.said)")
            let said = end.said.split(separator: "\n")
            for words in kind.lines {
                #expect(said.contains { line in words.allSatisfy(line.contains) }, "\(words) in \(end.said)")
            }
            try checkResume(trial, ranks: Self.resumes[repetition % Self.resumes.count])
            slowest = max(slowest, end.seconds)
        }
        if Self.full { report(kind, slowest) }
    }

    private func checkResume(_ trial: FaultTrial, ranks: Int) throws {
        let isSame = ranks == FaultTrial.ranks
        let losses =
            isSame && trial.isEndless ? try trial.resumeOnProcesses() : try trial.resume(onRanks: ranks)
        // Each step once, and all of it as if nothing had happened.
        #expect(losses.map(\.step) == Array(1...losses.count))
        let straight = try FaultTrial.straight.get()
        if trial.isEndless {
            #expect(losses.allSatisfy { $0.loss?.isFinite == true })
        } else if isSame {
            #expect(losses == straight)
        } else {
            #expect(losses.count == straight.count)
            for (loss, expected) in zip(losses, straight) {
                let (loss, expected) = (try #require(loss.loss), try #require(expected.loss))
                #expect(abs(loss - expected) < Self.nearness * expected)
            }
        }
    }

    private func report(_ kind: FaultKind, _ slowest: Double) {
        let name = kind.name.padding(toLength: 40, withPad: " ", startingAt: 0)
        let link = kind.needsProcesses ? "processes" : "threads  "
        print("fault: \(name) \(link) \(Self.repetitions) times, code \(kind.code), slowest", terminator: " ")
        print(String(format: "%.2f s, %d resumed", slowest, Self.repetitions))
    }
}

/// What `body` returns; an error where it has not within so many seconds, and then it is left behind.
private func within<Value: Sendable>(
    _ seconds: Double, _ body: @escaping @Sendable () throws -> Value
) throws -> Value {
    let outcome = Monitor<Result<Value, any Error>?>(nil)
    let thread = Thread {
        let result = Result(catching: body)
        outcome.update { $0 = result }
    }
    thread.stackSize = 16 << 20
    thread.start()
    let result = outcome.wait(until: MonotonicClock.seconds + seconds) { $0 }
    return try #require(result, "a hang: no end within \(seconds) s").get()
}
