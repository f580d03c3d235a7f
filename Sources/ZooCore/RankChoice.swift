import DistributedCore
import TensorCore

/// What a user writes to choose ranks and link, for errors: keys of a config, or options of a command.
public struct RankWords: Sendable {
    let mesh: String
    let link: @Sendable (ParallelSection.Link) -> String
    let ranks: @Sendable (Int) -> String

    /// `parallel` of a config.
    public static let config = RankWords(
        mesh: "the mesh (parallel.sequence x data x tensor)", link: { "parallel.link: \($0.rawValue)" },
        ranks: { "--set parallel.sequence=\($0)" })

    /// `--ranks` and `--link` of a command, beside its `--tensor` where it has that.
    public static func options(tensor: Int = 1) -> RankWords {
        RankWords(
            mesh: tensor == 1 ? "the group (--ranks)" : "the mesh (--ranks x --tensor)",
            link: { "--link \($0.rawValue)" },
            ranks: { ranks in
                ranks % tensor == 0 ? "--ranks \(ranks / tensor)" : "--ranks and --tensor whose product is \(ranks)"
            })
    }
}

/// The ranks of a run and the link between them, chosen from `parallel` and from what started this process.
public struct RankChoice: Sendable {
    public let link: any LinkProvider
    public let ranks: Int
    /// One line where `auto` had a choice.
    public let notes: [String]

    /// Whether rank 0, which writes and reports, lives in this process.
    public var holdsFirstRank: Bool { link.isInProcess || (link.launch?.rank ?? 0) == 0 }

    /// - Parameters:
    ///   - name: `parallel.link`.
    ///   - ranks: the product of the mesh; nil for as many as were launched.
    ///   - words: what the user wrote them with, for errors.
    ///   - place: where the names were written, for errors.
    /// - Throws: `.config` where link, ranks and launcher do not fit, naming all three.
    public init(
        link name: ParallelSection.Link, ranks: Int?, in zoo: Zoo, words: RankWords,
        place: (String) -> ConfigPlace? = { _ in nil }
    ) throws {
        func fault(_ key: String, _ message: String, _ tried: [String]) -> RingZooError {
            RingZooError(.config, (place(key).map { "\($0): " } ?? "") + message, tried: tried)
        }
        let launched = try zoo.links.names.map { try zoo.links.entry($0) }.first { ($0.launch?.ranks ?? 1) > 1 }
        let launch = launched?.launch
        switch name {
        case .auto: link = try launched ?? zoo.links.entry("threads")
        case .threads, .mpi: link = try zoo.links.entry(name.rawValue, at: place("parallel.link"))
        }
        self.ranks = ranks ?? launch?.ranks ?? 1
        var notes: [String] = []
        if name == .auto, let launch { notes = ["\(words.link(.auto)) chose '\(link.name)' (\(launch.launcher))"] }
        self.notes = notes
        if let launch, link.name != launched?.name {
            throw fault(
                "parallel.link",
                "\(words.link(name)), but \(launch.launcher) started \(launch.ranks) processes: "
                    + "each would do the whole work",
                ["\(words.link(.auto)) would work, or one process without \(launch.launcher)"])
        }
        if !link.isInProcess && self.ranks != (launch?.ranks ?? 1) {
            let started = launch.map { "\($0.launcher) started \($0.ranks)" } ?? "no launcher started others"
            throw fault(
                "parallel.sequence",
                "\(words.mesh) has \(self.ranks) rank\(self.ranks == 1 ? "" : "s"), but \(started)",
                [
                    "mpirun -n \(self.ranks) would work",
                    "or \(launch.map { words.ranks($0.ranks) } ?? words.link(.threads))",
                ])
        }
    }

    /// For a config.
    public init(_ config: RunConfig, in zoo: Zoo) throws {
        let parallel = config.parallel
        try self.init(
            link: parallel.link, ranks: parallel.sequence * parallel.data * parallel.tensor, in: zoo,
            words: .config, place: config.place)
    }

    /// Runs `body` on every rank of this process, and returns the result of the first of them.
    ///
    /// - Parameter identity: what must be the same in every process; checked before `body`.
    public func run<Result: Sendable>(
        as identity: RankIdentity, threads: Int?, deadline: Double,
        _ body: @escaping @Sendable (any Communicator, CPUDevice) throws -> Result
    ) throws -> Result {
        try link.run(ranks: ranks, threads: threads, deadline: deadline) { [link] communicator, device in
            if !link.isInProcess { try identity.agree(over: communicator) }
            return try body(communicator, device)
        }[0]
    }
}
