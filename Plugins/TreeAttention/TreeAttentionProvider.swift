import AttentionCore
import DistributedCore
import TensorCore
import ZooCore

/// Registers the `tree` backend.
public struct TreeAttentionProvider: AttentionProvider {
    public let name = "tree"
    public let summary =
        "for decoding: keys are cut over ranks, all ranks hold the new tokens, and one message a layer joins their shares"
    public let isDistributed = true
    public let isForDecoding = true

    public init() {}

    public func unavailableReasons() -> [String] { [] }

    public func make(
        local: (any AttentionBackend)?, over communicator: (any Communicator)?
    ) throws -> any AttentionBackend {
        guard let local, let communicator else {
            throw RingZooError(.config, "the tree backend needs a local backend and a communicator")
        }
        func open(_ local: some AttentionBackend) -> any AttentionBackend { TreeAttention(local, over: communicator) }
        return open(local)
    }
}
