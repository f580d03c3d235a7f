import AttentionCore
import DistributedCore
import ZooCore

/// Registers the `ulysses` backend.
public struct UlyssesAttentionProvider: DistributedAttentionProvider {
    public let name = "ulysses"
    public let summary =
        "the sequence is cut over ranks, which trade tokens for heads: each computes some heads of the whole sequence"

    public init() {}

    public func make(_ local: some AttentionBackend, over communicator: any Communicator) -> any AttentionBackend {
        UlyssesAttention(local, over: communicator)
    }
}
