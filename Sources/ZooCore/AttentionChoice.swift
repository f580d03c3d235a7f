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

    /// Backends that `auto` prefers, best first; others follow by name.
    private static let preference = ["cuda", "cpu", "blas", "ring"]

    /// - Parameters:
    ///   - ranks: ranks that share the sequence.
    ///   - place: where the names were written, for errors.
    /// - Throws: `.config` for a name that is not registered (listing what is), for a backend that cannot run on this machine (with every
    ///   reason), for one that is for decoding, and for more than one rank with a backend that is not distributed.
    public init(
        backend: String, local: String, ranks: Int, in zoo: Zoo, place: (String) -> ConfigPlace? = { _ in nil }
    ) throws {
        var notes: [String] = []
        func available(_ name: String, _ key: String) throws -> any AttentionProvider {
            let provider = try zoo.attention.entry(name, at: place(key))
            let reasons = provider.unavailableReasons()
            if !reasons.isEmpty {
                throw RingZooError(.config, "attention backend '\(name)' cannot run on this machine", tried: reasons)
            }
            return provider
        }
        func automatic(_ key: String, distributed: Bool) throws -> any AttentionProvider {
            let candidates = try zoo.attention.names.map { try zoo.attention.entry($0) }
                .filter { $0.isDistributed == distributed && !$0.isForDecoding }
                .sorted { rank($0.name) < rank($1.name) }
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
        func rank(_ name: String) -> String {
            Self.preference.firstIndex(of: name).map { "\($0)" } ?? "9\(name)"
        }
        let chosen =
            backend == "auto"
            ? try automatic("attention.backend", distributed: ranks > 1) : try available(backend, "attention.backend")
        if chosen.isForDecoding {
            throw RingZooError(
                .config,
                "attention.backend is '\(backend)', which is for decoding: every rank must hold all queries, and here they are cut over the ranks",
                tried: [
                    "backend: ring would work; 'ringzoo generate' with several ranks uses \(backend) for new tokens by itself"
                ])
        }
        if chosen.isDistributed {
            let inner =
                local == "auto"
                ? try automatic("attention.local", distributed: false) : try available(local, "attention.local")
            if inner.isDistributed {
                throw RingZooError(
                    .config, "attention.local is '\(local)', which needs a local backend itself",
                    tried: ["one of \(zoo.attention.names.filter { $0 != local }.joined(separator: ", ")) would work"])
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
        self.backend = chosen
        self.notes = notes
    }

    /// "ring over cpu", for people.
    public var description: String { local.map { "\(backend.name) over \($0.name)" } ?? backend.name }

    /// Makes the backend of one rank.
    public func make(over communicator: any Communicator) throws -> any AttentionBackend {
        try backend.make(local: try local?.make(local: nil, over: nil), over: communicator)
    }

    /// Makes the backend of one rank so that each of its computations is an operation in a profile (see `RecordedAttention`).
    func makeRecorded(over communicator: any Communicator) throws -> any AttentionBackend {
        guard let local else { return recorded(try backend.make(local: nil, over: communicator)) }
        return try backend.make(local: recorded(try local.make(local: nil, over: nil)), over: communicator)
    }
}

private func recorded(_ backend: some AttentionBackend) -> any AttentionBackend {
    RecordedAttention(backend)
}
