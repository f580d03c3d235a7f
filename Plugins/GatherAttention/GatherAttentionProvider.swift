import AttentionCore
import DistributedCore
import ZooCore

/// Registers the `gather` backend.
public struct GatherAttentionProvider: DistributedAttentionProvider {
    public let name = "gather"
    public let summary =
        "the sequence is cut over ranks, and all keys and values are collected on each: fewer messages than the ring, more memory"

    public init() {}

    public func make(_ local: some AttentionBackend, over communicator: any Communicator) -> any AttentionBackend {
        GatherAttention(local, over: communicator)
    }
}
