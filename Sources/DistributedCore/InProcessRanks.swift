import Foundation
import Synchronization
import TensorCore

/// Ranks as threads of this process, each with a device of its own.
///
/// They are real threads: on a shared pool a blocking wait can keep the rank it waits for from running.
public enum InProcessRanks {
    /// The communicator of a rank that has no others.
    public static func alone(on device: any Device) -> any Communicator {
        let link = InProcessLink(InProcessExchange(), members: [0], rank: 0, context: 0, device: device)
        return LinkCommunicator(link, .init())
    }

    /// Runs `body` on `count` ranks at once and returns their results in the order of ranks.
    ///
    /// - Parameters:
    ///   - threads: worker threads in total; each rank's device gets max(1, threads / count).
    ///   - deadline: seconds a rank waits for a silent peer.
    /// - Throws: the first error that a rank threw; the others end with an error that names it, none hangs.
    public static func run<Result: Sendable>(
        _ count: Int, threads: Int? = nil, deadline: Double = 60,
        _ body: @escaping @Sendable (any Communicator, CPUDevice) throws -> Result
    ) throws -> [Result] {
        // Within one process nothing changes on the way.
        try run(count, threads: threads, .init(deadline: deadline, checksums: false), over: { $0 }, body)
    }

    /// The same with other rules, over a link that stands on the one between threads.
    public static func run<Result: Sendable>(
        _ count: Int, threads: Int? = nil, _ rules: LinkCommunicator.Rules,
        over decorate: @escaping @Sendable (any Link) -> any Link,
        _ body: @escaping @Sendable (any Communicator, CPUDevice) throws -> Result
    ) throws -> [Result] {
        if count < 1 { fatalError("InProcessRanks: at least one rank wanted, got \(count)") }
        let perRank = max(1, (threads ?? CPUDevice.defaultThreads) / count)
        let exchange = InProcessExchange()
        let outcome = Mutex<(results: [Result?], failure: (any Error)?)>(([Result?](repeating: nil, count: count), nil))
        @Sendable func runRank(_ rank: Int) {
            let device = CPUDevice(name: count == 1 ? "cpu" : "cpu:\(rank)", threads: perRank)
            do {
                let link = InProcessLink(exchange, members: Array(0..<count), rank: rank, context: 0, device: device)
                let result = try body(LinkCommunicator(decorate(link), rules), device)
                outcome.withLock { $0.results[rank] = result }
            } catch {
                outcome.withLock { if $0.failure == nil { $0.failure = error } }
                exchange.fail(LinkFailure(ofRank: rank, error))
            }
        }
        let finished = Monitor(1)
        for rank in 1..<max(1, count) {
            let thread = Thread {
                runRank(rank)
                finished.update { $0 += 1 }
            }
            thread.stackSize = 16 << 20
            thread.name = "rank \(rank)"
            thread.start()
        }
        runRank(0)
        _ = finished.wait(until: .infinity) { $0 == count ? true : nil }
        let (results, failure) = outcome.withLock { ($0.results, $0.failure) }
        if let failure { throw failure }
        return results.map { $0! }
    }
}
