import AttentionCore

/// An attention backend that spreads one problem over ranks, on each of which a local backend computes.
public protocol DistributedAttention: AttentionBackend {
    associatedtype Local: AttentionBackend
    var local: Local { get }
    /// The ranks that share the sequence.
    var communicator: any Communicator { get }
}

extension DistributedAttention {
    /// Those of the local backend: what it can do, it can do on any number of ranks.
    public func unsupportedReasons(_ problem: AttentionProblem) -> [String] {
        local.unsupportedReasons(problem).map { "local backend '\(local.name)': \($0)" }
    }
}
