import AttentionCore
import DistributedCore
import TensorCore

/// A named attention backend that spreads one problem over ranks, on each of which a local backend computes.
public protocol DistributedAttentionProvider: AttentionProvider {
    /// The backend around a local one, over the ranks that share the sequence.
    func make(_ local: some AttentionBackend, over communicator: any Communicator) -> any AttentionBackend
}

extension DistributedAttentionProvider {
    public var isDistributed: Bool { true }

    public func unavailableReasons() -> [String] { [] }

    public func make(
        local: (any AttentionBackend)?, over communicator: (any Communicator)?
    ) throws -> any AttentionBackend {
        let (local, communicator) = try required(local, communicator)
        return make(local, over: communicator)
    }

    /// Both, or an error that says what is needed.
    public func required(
        _ local: (any AttentionBackend)?, _ communicator: (any Communicator)?
    ) throws -> (local: any AttentionBackend, communicator: any Communicator) {
        guard let local, let communicator else {
            throw RingZooError(.config, "the \(name) backend needs a local backend and a communicator")
        }
        return (local, communicator)
    }
}
