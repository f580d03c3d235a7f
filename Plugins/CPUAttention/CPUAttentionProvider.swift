import AttentionCore
import BlockwiseAttention
import DistributedCore
import ZooCore

/// Registers the `cpu` backend.
public struct CPUAttentionProvider: AttentionProvider {
    public let name = "cpu"
    public var summary: String { "our own blockwise kernels on the processor (\(BlockwiseAttention.kernels) here)" }
    public let isDistributed = false

    public init() {}

    public func unavailableReasons() -> [String] { [] }

    public func make(local: (any AttentionBackend)?, over communicator: (any Communicator)?) -> any AttentionBackend {
        CPUAttention()
    }
}
