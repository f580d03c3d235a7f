import AttentionCore
import DistributedCore
import ZooCore

/// Registers the `tree` backend.
public struct TreeAttentionProvider: DistributedAttentionProvider {
    public let name = "tree"
    public let summary =
        "for decoding: keys are cut over ranks, all ranks hold the new tokens, and one message a layer joins their shares"
    public let isForDecoding = true

    public init() {}

    public func make(_ local: some AttentionBackend, over communicator: any Communicator) -> any AttentionBackend {
        TreeAttention(local, over: communicator)
    }
}
