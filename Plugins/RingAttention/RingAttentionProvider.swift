import AttentionCore
import DistributedCore
import TensorCore
import ZooCore

/// Registers the `ring` backend.
public struct RingAttentionProvider: AttentionProvider {
    public let name = "ring"
    public let summary =
        "ring attention: the sequence is cut over ranks, key/value blocks travel while each rank computes"
    public let isDistributed = true

    public init() {}

    public func unavailableReasons() -> [String] { [] }

    public func make(
        local: (any AttentionBackend)?, over communicator: (any Communicator)?
    ) throws -> any AttentionBackend {
        guard let local, let communicator else {
            throw RingZooError(.config, "the ring backend needs a local backend and a communicator")
        }
        func open(_ local: some AttentionBackend) -> any AttentionBackend { RingAttention(local, over: communicator) }
        return open(local)
    }
}
