import DistributedCore
import Foundation
import TensorCore
import ZooCore

/// Registers the `mpi` link: each rank is a process, started by mpirun or srun, on one machine or many.
public struct MPILinkProvider: LinkProvider {
    public let name = "mpi"
    public let summary = "ranks are processes, started by mpirun or srun"
    public let isInProcess = false

    public init() {}

    public var launch: RankLaunch? {
        Launcher().map {
            RankLaunch(launcher: $0.name, rank: $0.rank, ranks: $0.size, ranksHere: $0.ranksHere)
        }
    }

    public func describe() throws -> String {
        let library = try MPILibrary.open(for: Launcher())
        return "\(library.version) (\(library.file))"
    }

    /// How many deadlines ranks wait for one that starts late: programs and data are read before, at different speeds.
    static let startDeadlines = 5.0

    public func run<Result: Sendable>(
        ranks: Int, threads: Int?, deadline: Double,
        _ body: @escaping @Sendable (any Communicator, CPUDevice) throws -> Result
    ) throws -> [Result] {
        let process = try MPIProcess.join(deadline: Self.startDeadlines * deadline)
        return [try process.run(threads: threads, .init(deadline: deadline), body)]
    }
}

extension MPIProcess {
    /// Runs `body` as this process's rank of the job.
    ///
    /// - Parameters:
    ///   - threads: worker threads; nil for this rank's share of the machine.
    ///   - decorate: what stands on the link, for tests.
    /// - Throws: what `body` throws, after telling the other ranks.
    public func run<Result: Sendable>(
        threads: Int? = nil, _ rules: LinkCommunicator.Rules, over decorate: (any Link) -> any Link = { $0 },
        _ body: (any Communicator, CPUDevice) throws -> Result
    ) throws -> Result {
        do {
            let device = CPUDevice(name: "cpu:\(rank)", threads: try threads ?? threadShare(rules))
            let communicator = LinkCommunicator(decorate(MPILink(self, device: device)), rules)
            let result = try body(communicator, device)
            // Nobody leaves while another still waits.
            try communicator.barrier()
            return result
        } catch {
            announce(LinkFailure(ofRank: rank, error))
            throw error
        }
    }

    /// Worker threads for this rank: its share of the machine's cores, and no more than the launcher lets it use.
    private func threadShare(_ rules: LinkCommunicator.Rules) throws -> Int {
        let link = MPILink(self, device: CPUDevice(name: "start", threads: 1))
        let host = ProcessInfo.processInfo.hostName.utf8.map { Int($0) }
        let hosts = try LinkCommunicator(link, rules).allGather(Message([], integers: host)).map(\.integers)
        let ranksHere = hosts.count { $0 == host }
        return max(1, min(CPUDevice.defaultThreads, ProcessInfo.processInfo.processorCount / ranksHere))
    }
}
