import AttentionCore
import DistributedCore
import ZooCore

/// Registers the `ring` backend.
public struct RingAttentionProvider: DistributedAttentionProvider {
    public let name = "ring"
    public let summary =
        "ring attention: the sequence is cut over ranks, key/value blocks travel while each rank computes"

    public init() {}

    public func make(_ local: some AttentionBackend, over communicator: any Communicator) -> any AttentionBackend {
        RingAttention(local, over: communicator)
    }
}
