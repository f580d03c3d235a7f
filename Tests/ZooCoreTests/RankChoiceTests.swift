import DistributedCore
import TensorCore
import Testing
import ZooCore

/// Link, mesh and launcher have to fit, and what does not is said.
@Suite struct RankChoiceTests {
    /// A link between processes that some launcher may have started.
    struct Processes: LinkProvider {
        let name = "mpi"
        let summary = "for tests"
        let isInProcess = false
        var launch: RankLaunch?

        func describe() -> String { "for tests" }

        func run<Result: Sendable>(
            ranks: Int, threads: Int?, deadline: Double,
            _ body: @escaping @Sendable (any Communicator, CPUDevice) throws -> Result
        ) throws -> [Result] { fatalError("nothing runs here") }
    }

    static func choose(
        _ link: ParallelSection.Link, ranks: Int?, launched: Int?, rank: Int = 0, words: RankWords = .config
    ) throws -> RankChoice {
        var zoo = Zoo()
        try zoo.links.register("threads", ThreadLinkProvider())
        let launch = launched.map { RankLaunch(launcher: "mpirun", rank: rank, ranks: $0) }
        try zoo.links.register("mpi", Processes(launch: launch))
        return try RankChoice(link: link, ranks: ranks, in: zoo, words: words)
    }

    @Test func autoTakesWhatStartedTheProcess() throws {
        let alone = try Self.choose(.auto, ranks: 4, launched: nil)
        #expect(alone.link.name == "threads" && alone.ranks == 4 && alone.notes.isEmpty && alone.holdsFirstRank)
        let launched = try Self.choose(.auto, ranks: 4, launched: 4, rank: 2)
        #expect(launched.link.name == "mpi" && launched.notes.count == 1 && !launched.holdsFirstRank)
        // One process is one process, whoever started it.
        #expect(try Self.choose(.auto, ranks: 3, launched: 1).link.name == "threads")
        #expect(try Self.choose(.auto, ranks: nil, launched: 5).ranks == 5)
        #expect(try Self.choose(.auto, ranks: nil, launched: nil).ranks == 1)
    }

    static let misfits: [(ParallelSection.Link, Int, Int?, String)] = [
        (.auto, 4, 3, "has 4 ranks, but mpirun started 3"),
        (.mpi, 1, 2, "has 1 rank, but mpirun started 2"),
        (.mpi, 2, nil, "has 2 ranks, but no launcher started others"),
        (.threads, 2, 2, "mpirun started 2 processes: each would do the whole work"),
    ]

    @Test(arguments: misfits)
    func whatDoesNotFitIsRefused(_ link: ParallelSection.Link, _ ranks: Int, _ launched: Int?, _ words: String) throws {
        let error = try #require(throws: RingZooError.self) {
            try Self.choose(link, ranks: ranks, launched: launched)
        }
        #expect(error.code == .config && error.message.contains(words), "\(error)")
        #expect(!error.tried.isEmpty)
    }

    /// What is said to work can be written where the misfit was.
    @Test(arguments: misfits)
    func remediesAreInTheWordsOfWhoeverAsked(
        _ link: ParallelSection.Link, _ ranks: Int, _ launched: Int?, _ words: String
    ) throws {
        func said(_ words: RankWords) throws -> String {
            try #require(throws: RingZooError.self) {
                try Self.choose(link, ranks: ranks, launched: launched, words: words)
            }.description
        }
        for tensor in [1, 2] {
            let options = try said(.options(tensor: tensor))
            #expect(options.contains("--ranks") || options.contains("--link"), "\(options)")
            #expect(!options.contains("parallel."), "\(options)")
        }
        let config = try said(.config)
        #expect(config.contains("parallel.") && !config.contains("--ranks") && !config.contains("--link"), "\(config)")
    }

    @Test func aNumberOfRanksThatWorksIsNamed() throws {
        func said(tensor: Int) throws -> [String] {
            try #require(throws: RingZooError.self) {
                try Self.choose(.auto, ranks: 4, launched: 6, words: .options(tensor: tensor))
            }.tried
        }
        #expect(try said(tensor: 1) == ["mpirun -n 4 would work", "or --ranks 6"])
        #expect(try said(tensor: 2) == ["mpirun -n 4 would work", "or --ranks 3"])
        #expect(try said(tensor: 4).last == "or --ranks and --tensor whose product is 6")
    }

    @Test(arguments: [
        ("version", RankIdentity(program: ProgramIdentity(version: "2", commit: "a"), task: "x: 1\ny: 2")),
        ("commit", RankIdentity(program: ProgramIdentity(version: "1", commit: "b"), task: "x: 1\ny: 2")),
        ("config", RankIdentity(program: ProgramIdentity(version: "1", commit: "a"), task: "x: 1\ny: 3")),
        ("config", RankIdentity(program: ProgramIdentity(version: "1", commit: "a"), task: "x: 1")),
    ])
    func ranksThatDifferAreNamedWithTheirDifference(_ what: String, _ other: RankIdentity) throws {
        let identity = RankIdentity(program: ProgramIdentity(version: "1", commit: "a"), task: "x: 1\ny: 2")
        let error = try #require(throws: RingZooError.self) {
            try InProcessRanks.run(3) { communicator, _ in
                try (communicator.rank == 2 ? other : identity).agree(over: communicator)
            }
        }
        #expect(error.code == .config)
        #expect(error.message.contains("rank 0 has \(what)") && error.message.contains("rank 2 has"), "\(error)")
        _ = try InProcessRanks.run(3) { communicator, _ in try identity.agree(over: communicator) }
    }
}
