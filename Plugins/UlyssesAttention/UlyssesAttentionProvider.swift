import AttentionCore
import DistributedCore
import TensorCore
import ZooCore

/// Registers the `ulysses` backend.
public struct UlyssesAttentionProvider: AttentionProvider {
    public let name = "ulysses"
    public let summary =
        "the sequence is cut over ranks, which trade tokens for heads: each computes some heads of the whole sequence"
    public let isDistributed = true

    public init() {}

    public func unavailableReasons() -> [String] { [] }

    public func make(
        local: (any AttentionBackend)?, over communicator: (any Communicator)?
    ) throws -> any AttentionBackend {
        guard let local, let communicator else {
            throw RingZooError(.config, "the ulysses backend needs a local backend and a communicator")
        }
        func open(_ local: some AttentionBackend) -> any AttentionBackend {
            UlyssesAttention(local, over: communicator)
        }
        return open(local)
    }
}
