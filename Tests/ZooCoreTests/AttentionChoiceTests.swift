import AttentionCore
import DistributedCore
import TensorCore
import Testing
import ZooCore

/// Which of `backend`, `local` and `strategy` means what, and what contradicts.
@Suite struct AttentionChoiceTests {
    /// A name, nothing more.
    struct Named: AttentionProvider {
        let name: String
        var isDistributed = false
        var takesHeadRanks = false
        let summary = "for tests"

        func unavailableReasons() -> [String] { [] }

        func make(
            local: (any AttentionBackend)?, over communicator: (any Communicator)?
        ) throws -> any AttentionBackend { fatalError("nothing runs here") }
    }

    static func choose(_ settings: [String]) throws -> AttentionChoice {
        var zoo = Zoo()
        for name in ["cpu", "blas"] { try zoo.attention.register(name, Named(name: name)) }
        for name in ["ring", "ulysses"] {
            try zoo.attention.register(name, Named(name: name, isDistributed: true))
        }
        try zoo.attention.register("mesh", Named(name: "mesh", isDistributed: true, takesHeadRanks: true))
        let yaml = "model: {name: llama}\nrun: {directory: d, steps: 1}"
        let tree = try settings.reduce(ConfigTree(yaml: yaml, source: "run.yaml")) {
            try ConfigTree(override: $1).over($0)
        }
        return try AttentionChoice(RunConfig(tree: tree), in: zoo)
    }

    @Test func theStrategyIsTheDistributedBackend() throws {
        for (settings, description) in [
            (["attention.strategy=ulysses"], "ulysses over cpu"),
            (["attention.strategy=ulysses", "attention.backend=ulysses"], "ulysses over cpu"),
            (["attention.strategy=ring", "attention.local=blas"], "ring over blas"),
            (["attention.strategy=ring", "attention.backend=blas"], "ring over blas"),
            (["attention.strategy=ring", "attention.backend=blas", "attention.local=blas"], "ring over blas"),
            (["attention.backend=ulysses", "attention.local=blas"], "ulysses over blas"),
            (["attention.strategy=mesh", "attention.headRanks=2"], "mesh over cpu"),
            ([], "ring over cpu"),
        ] {
            #expect(try Self.choose(["parallel.sequence=4"] + settings).description == description, "\(settings)")
        }
        // One rank shares with nobody, and is a group of one where a strategy is asked for.
        #expect(try Self.choose(["attention.backend=cpu"]).description == "cpu")
        #expect(try Self.choose(["attention.strategy=ring"]).description == "ring over cpu")
    }

    static let contradictions: [([String], String, String)] = [
        (
            ["attention.backend=ring", "attention.strategy=ulysses"], "attention.backend=ring: ",
            "attention.backend is 'ring', but attention.strategy 'ulysses'"
        ),
        (
            ["attention.backend=cpu", "attention.local=blas", "attention.strategy=ring"], "attention.backend=cpu: ",
            "attention.backend is 'cpu', but attention.strategy 'ring', attention.local 'blas'"
        ),
        (["attention.strategy=cpu"], "attention.strategy=cpu: ", "which computes on one rank"),
        (["attention.strategy=tree"], "attention.strategy=tree: ", "registered: "),
        (
            ["attention.strategy=ring", "attention.headRanks=2"], "attention.headRanks=2: ",
            "'ring' has no such groups"
        ),
        (
            ["attention.strategy=mesh", "attention.headRanks=3", "parallel.sequence=4"], "attention.headRanks=3: ",
            "does not divide 4 ranks"
        ),
        (
            ["attention.strategy=ring", "attention.local=mesh"], "attention.local=mesh: ",
            "needs a local backend itself"
        ),
    ]

    @Test(arguments: contradictions)
    func contradictionsAreNamedWithTheirLine(_ settings: [String], _ place: String, _ words: String) throws {
        let error = try #require(throws: RingZooError.self) { try Self.choose(settings) }
        #expect(error.code == .config && error.message.hasPrefix("--set " + place), "\(error)")
        #expect("\(error)".contains(words), "\(error)")
    }
}
