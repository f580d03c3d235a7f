import AttentionCore
import DistributedCore
import TensorCore
import ZooCore

/// Registers the `gather` backend.
public struct GatherAttentionProvider: AttentionProvider {
    public let name = "gather"
    public let summary =
        "the sequence is cut over ranks, and all keys and values are collected on each: fewer messages than the ring, more memory"
    public let isDistributed = true

    public init() {}

    public func unavailableReasons() -> [String] { [] }

    public func make(
        local: (any AttentionBackend)?, over communicator: (any Communicator)?
    ) throws -> any AttentionBackend {
        guard let local, let communicator else {
            throw RingZooError(.config, "the gather backend needs a local backend and a communicator")
        }
        func open(_ local: some AttentionBackend) -> any AttentionBackend { GatherAttention(local, over: communicator) }
        return open(local)
    }
}
