import ConformanceKit
import DistributedCore
import Synchronization
import TensorCore
import ZooCore
import ZooStandard

/// Ranks as threads over a link that may harm what it carries, with checksums as between processes; keeps the error of every rank.
final class FaultyThreads: LinkProvider {
    let name = "threads"
    let summary = "ranks are threads of one process, and one is at fault"
    let isInProcess = true
    var launch: RankLaunch? { nil }
    private let decorate: @Sendable (any Link) -> any Link
    private let seen = Mutex<(errors: [Int: any Error], devices: [Int: any Device])>(([:], [:]))

    init(_ decorate: @escaping @Sendable (any Link) -> any Link) { self.decorate = decorate }

    func describe() -> String { "for tests" }

    func run<Result: Sendable>(
        ranks: Int, threads: Int?, deadline: Double,
        _ body: @escaping @Sendable (any Communicator, CPUDevice) throws -> Result
    ) throws -> [Result] {
        try InProcessRanks.run(ranks, threads: threads, .init(deadline: deadline), over: decorate) {
            [self] communicator, device in
            seen.withLock { $0.devices[communicator.rank] = device }
            do { return try body(communicator, device) } catch {
                seen.withLock { $0.errors[communicator.rank] = error }
                throw error
            }
        }
    }

    /// What the ranks would say if each were a process.
    var said: String { seen.withLock { $0.errors.values.map { "error: \($0)\n" }.joined() } }

    func device(ofRank rank: Int) -> (any Device)? { seen.withLock { $0.devices[rank] } }

    /// Everything in the tree, with these threads in place of the sound ones.
    func zoo() throws -> Zoo {
        var zoo = try ZooStandard.zoo()
        zoo.links = Registry("link")
        try zoo.links.register(name, self)
        return zoo
    }
}
