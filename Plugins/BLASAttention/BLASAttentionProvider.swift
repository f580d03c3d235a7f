import AttentionCore
import DistributedCore
import TensorCore
import ZooCore

/// Registers the `blas` backend.
public struct BLASAttentionProvider: AttentionProvider {
    public let name = "blas"
    public var summary: String { "the same blocks with OpenBLAS's products (\(CPUDevice.productKernels) here)" }
    public let isDistributed = false

    public init() {}

    public func unavailableReasons() -> [String] { [] }

    public func make(local: (any AttentionBackend)?, over communicator: (any Communicator)?) -> any AttentionBackend {
        BLASAttention()
    }
}
