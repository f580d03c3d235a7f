import AttentionCore
import DistributedCore
import TensorCore

/// The attention backends a run uses, chosen from names in the config; `auto` says what it chose and why not the others.
public struct AttentionChoice: Sendable {
    /// The backend models see.
    public let backend: any AttentionProvider
    /// The backend of each rank, where `backend` is distributed.
    public let local: (any AttentionProvider)?
    /// One line per choice made by `auto`.
    public let notes: [String]
    /// Ranks that share heads; nil where the backend has no such thing, or chooses itself.
    private let headRanks: Int?

    /// - Parameters:
    ///   - strategy: a distributed backend; beside it `backend` may be `auto`, the same name, or that of the local backend.
    ///   - headRanks: ranks that share heads (`mesh`); nil for the backend's own choice.
    ///   - ranks: ranks that share the sequence.
    ///   - place: where the names were written, for errors.
    /// - Throws: `.config` for a name that is not registered (listing what is), for a backend that cannot run on this machine (with every
    ///   reason), for one that is for decoding, for names that contradict each other, and for more than one rank with a backend that is
    ///   not distributed.
    public init(
        backend: String, local: String, strategy: String = "auto", headRanks: Int? = nil, ranks: Int, in zoo: Zoo,
        place: (String) -> ConfigPlace? = { _ in nil }
    ) throws {
        let names = try BackendNames(backend: backend, local: local, strategy: strategy, in: zoo, place)
        var search = BackendSearch(zoo: zoo)
        let chosen =
            names.backend == "auto"
            ? try search.automatic("attention.backend", distributed: ranks > 1)
            : try search.available(names.backend, at: place(names.key))
        if chosen.isForDecoding {
            throw contradiction(
                place(names.key),
                "\(names.key) is '\(chosen.name)', which is for decoding: every rank must hold all queries, and here they are cut over the ranks",
                "ring would work; 'ringzoo generate' with several ranks uses \(chosen.name) for new tokens by itself")
        }
        if chosen.isDistributed {
            let inner =
                names.local == "auto"
                ? try search.automatic("attention.local", distributed: false)
                : try search.available(names.local, at: place("attention.local"))
            if inner.isDistributed {
                throw contradiction(
                    place("attention.local"), "attention.local is '\(names.local)', which needs a local backend itself",
                    "one of \(zoo.attention.names.filter { $0 != names.local }.joined(separator: ", ")) would work")
            }
            self.local = inner
        } else {
            if ranks > 1 {
                throw RingZooError(
                    .config,
                    "attention.backend is '\(backend)', but \(ranks) ranks share the sequence (parallel.sequence)",
                    tried: ["backend: ring with local: \(backend) would work, or parallel.sequence: 1"])
            }
            self.local = nil
        }
        try Self.check(headRanks, of: chosen, ranks: ranks, at: place("attention.headRanks"))
        self.headRanks = headRanks
        self.backend = chosen
        self.notes = search.notes
    }

    private static func check(
        _ headRanks: Int?, of backend: any AttentionProvider, ranks: Int, at place: ConfigPlace?
    ) throws {
        guard let headRanks else { return }
        if !backend.takesHeadRanks {
            throw contradiction(
                place, "attention.headRanks is \(headRanks), but '\(backend.name)' has no such groups",
                "strategy: mesh would work, or headRanks: auto")
        }
        if headRanks < 1 || ranks % headRanks != 0 {
            let divisors = (1...ranks).filter { ranks % $0 == 0 }.map(String.init).joined(separator: ", ")
            throw contradiction(
                place,
                "attention.headRanks is \(headRanks), which does not divide \(ranks) rank\(ranks == 1 ? "" : "s")",
                "\(divisors) or auto would work")
        }
    }

    /// For a config.
    public init(_ config: RunConfig, in zoo: Zoo) throws {
        let attention = config.attention
        let headRanks: Int? = if case .count(let count) = attention.headRanks { count } else { nil }
        try self.init(
            backend: attention.backend, local: attention.local, strategy: attention.strategy, headRanks: headRanks,
            ranks: config.parallel.sequence, in: zoo, place: config.place)
    }

    /// "ring over cpu", for people.
    public var description: String { local.map { "\(backend.name) over \($0.name)" } ?? backend.name }

    /// Whether so many ranks can share a sequence with it.
    func takes(ranks: Int) -> Bool {
        (backend.isDistributed || ranks == 1) && ranks % (headRanks ?? 1) == 0
    }

    /// Makes the backend of one rank.
    public func make(over communicator: any Communicator) throws -> any AttentionBackend {
        try backend.make(local: try local?.make(local: nil, over: nil), over: communicator, headRanks: headRanks)
    }

    /// Makes the backend of one rank so that each of its computations is an operation in a profile (see `RecordedAttention`).
    func makeRecorded(over communicator: any Communicator) throws -> any AttentionBackend {
        try make(over: communicator, standIn: { recorded($0) })
    }

    /// Makes the backend of one rank so that each of its computations is noted in the log of a rehearsal (see `NotedAttention`).
    func makeNoted(over communicator: any Communicator) throws -> any AttentionBackend {
        try make(over: communicator, standIn: { noted($0) })
    }

    /// Makes the backend of one rank with a stand-in for the one that computes.
    private func make(
        over communicator: any Communicator, standIn: (any AttentionBackend) -> any AttentionBackend
    ) throws -> any AttentionBackend {
        guard let local else { return standIn(try backend.make(local: nil, over: communicator)) }
        return try backend.make(
            local: standIn(try local.make(local: nil, over: nil)), over: communicator, headRanks: headRanks)
    }
}

private func recorded(_ backend: some AttentionBackend) -> any AttentionBackend { RecordedAttention(backend) }

private func noted(_ backend: some AttentionBackend) -> any AttentionBackend { NotedAttention(backend) }

private func contradiction(_ place: ConfigPlace?, _ message: String, _ tried: String) -> RingZooError {
    RingZooError(.config, (place.map { "\($0): " } ?? "") + message, tried: [tried])
}

/// What `backend`, `local` and `strategy` mean together: a strategy is the backend, and then `backend` may name the local one.
private struct BackendNames {
    var backend, local: String
    /// Where `backend` was written.
    var key = "attention.backend"

    init(
        backend: String, local: String, strategy: String, in zoo: Zoo, _ place: (String) -> ConfigPlace?
    ) throws {
        (self.backend, self.local) = (backend, local)
        if strategy == "auto" { return }
        if try !zoo.attention.entry(strategy, at: place("attention.strategy")).isDistributed {
            throw contradiction(
                place("attention.strategy"), "attention.strategy is '\(strategy)', which computes on one rank",
                "strategy: auto with backend: \(strategy) would work, or local: \(strategy)")
        }
        (self.backend, key) = (strategy, "attention.strategy")
        if backend == "auto" || backend == strategy { return }
        let isLocal = try !zoo.attention.entry(backend, at: place("attention.backend")).isDistributed
        if !isLocal || (local != "auto" && local != backend) {
            throw contradiction(
                place("attention.backend"),
                "attention.backend is '\(backend)', but attention.strategy '\(strategy)'"
                    + (isLocal ? ", attention.local '\(local)'" : ""), "backend: auto would work")
        }
        self.local = backend
    }
}

/// Looks backends up, and notes what `auto` found.
private struct BackendSearch {
    let zoo: Zoo
    var notes: [String] = []

    /// Backends that `auto` prefers, best first; others follow by name.
    private static let preference = ["cuda", "cpu", "blas", "ring"]

    func available(_ name: String, at place: ConfigPlace?) throws -> any AttentionProvider {
        let provider = try zoo.attention.entry(name, at: place)
        let reasons = provider.unavailableReasons()
        if !reasons.isEmpty {
            throw RingZooError(.config, "attention backend '\(name)' cannot run on this machine", tried: reasons)
        }
        return provider
    }

    mutating func automatic(_ key: String, distributed: Bool) throws -> any AttentionProvider {
        func order(_ name: String) -> String {
            Self.preference.firstIndex(of: name).map { "\($0)" } ?? "9\(name)"
        }
        let candidates = try zoo.attention.names.map { try zoo.attention.entry($0) }
            .filter { $0.isDistributed == distributed && !$0.isForDecoding }
            .sorted { order($0.name) < order($1.name) }
        var refused: [String] = []
        for candidate in candidates {
            let reasons = candidate.unavailableReasons()
            if reasons.isEmpty {
                let others = candidates.map(\.name).filter { $0 != candidate.name && !refused.contains($0) }
                var note = "\(key): auto chose '\(candidate.name)'"
                if !others.isEmpty {
                    note += ", the fastest here; \(others.joined(separator: ", ")) would work too"
                }
                notes.append(note)
                return candidate
            }
            refused.append(candidate.name)
            notes.append("\(key): not '\(candidate.name)': \(reasons.joined(separator: "; "))")
        }
        throw RingZooError(.config, "\(key): no attention backend can run on this machine", tried: notes)
    }
}
