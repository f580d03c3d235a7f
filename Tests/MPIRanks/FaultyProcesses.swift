import ConformanceKit
import DistributedCore
import MPICommunicator
import TensorCore
import ZooCore
import ZooStandard

/// Ranks as processes over a link that harms a packet of one of them.
struct FaultyProcesses: LinkProvider {
    let name = "mpi"
    let summary = "ranks are processes, and one is at fault"
    let isInProcess = false
    let decorate: @Sendable (any Link) -> any Link

    var launch: RankLaunch? { MPILinkProvider().launch }

    func describe() -> String { "for tests" }

    func run<Result: Sendable>(
        ranks: Int, threads: Int?, deadline: Double,
        _ body: @escaping @Sendable (any Communicator, CPUDevice) throws -> Result
    ) throws -> [Result] {
        let process = try MPIProcess.join(deadline: 30)
        return [try process.run(threads: threads, .init(deadline: deadline), over: decorate, body)]
    }

    /// Trains what a config with settings over it says.
    func train(_ config: String, _ settings: [String]) throws {
        var zoo = try ZooStandard.zoo()
        zoo.links = Registry("link")
        try zoo.links.register(name, self)
        let run = try TrainingRun(RunConfig.load(path: config, overrides: settings), in: zoo, threads: 1)
        _ = try run.train(resume: false) { _ in }
    }
}
