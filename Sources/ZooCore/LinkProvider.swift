import DistributedCore
import TensorCore

/// A way to have ranks, under the name that `parallel.link` gives it.
public protocol LinkProvider: Sendable {
    var name: String { get }
    /// One sentence for `ringzoo doctor`.
    var summary: String { get }
    /// What it would use on this machine, for people.
    /// - Throws: why it cannot be used here, and what to install.
    func describe() throws -> String
    /// Who started this process as one of how many ranks, where a launcher of this link did.
    var launch: RankLaunch? { get }
    /// Whether all ranks live in this process.
    var isInProcess: Bool { get }

    /// Runs `body` on every rank that lives in this process and returns their results in the order of ranks.
    ///
    /// - Parameters:
    ///   - threads: worker threads of this process; nil for its share of the machine's cores.
    ///   - deadline: seconds a rank waits for a silent peer.
    /// - Throws: the first error of a rank here. Ranks elsewhere end with an error that names it; none hangs.
    func run<Result: Sendable>(
        ranks: Int, threads: Int?, deadline: Double,
        _ body: @escaping @Sendable (any Communicator, CPUDevice) throws -> Result
    ) throws -> [Result]
}

/// How a launcher started this process.
public struct RankLaunch: Sendable, Hashable {
    /// For people: "mpirun of Open MPI".
    public var launcher: String
    public var rank: Int
    public var ranks: Int
    /// Ranks on this machine; nil where the launcher does not tell.
    public var ranksHere: Int?

    public init(launcher: String, rank: Int, ranks: Int, ranksHere: Int? = nil) {
        (self.launcher, self.rank, self.ranks, self.ranksHere) = (launcher, rank, ranks, ranksHere)
    }
}

/// Ranks as threads of this process.
public struct ThreadLinkProvider: LinkProvider {
    public let name = "threads"
    public let summary = "ranks are threads of one process"
    public let isInProcess = true
    public var launch: RankLaunch? { nil }

    public init() {}

    public func describe() -> String { "always there" }

    public func run<Result: Sendable>(
        ranks: Int, threads: Int?, deadline: Double,
        _ body: @escaping @Sendable (any Communicator, CPUDevice) throws -> Result
    ) throws -> [Result] { try InProcessRanks.run(ranks, threads: threads, deadline: deadline, body) }
}
