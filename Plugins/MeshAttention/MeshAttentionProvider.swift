import AttentionCore
import DistributedCore
import TensorCore
import ZooCore

/// Registers the `mesh` backend, composed from two that are registered already.
public struct MeshAttentionProvider: AttentionProvider {
    public let name = "mesh"
    public let summary = "groups of ranks that share heads, and a ring between the groups (attention.headRanks)"
    public let isDistributed = true
    public let takesHeadRanks = true
    private let heads, ring: any AttentionProvider

    /// - Parameters:
    ///   - heads: the strategy within a group.
    ///   - ring: the strategy between groups.
    public init(heads: any AttentionProvider, ring: any AttentionProvider) {
        self.heads = heads
        self.ring = ring
    }

    public func unavailableReasons() -> [String] { heads.unavailableReasons() + ring.unavailableReasons() }

    public func make(
        local: (any AttentionBackend)?, over communicator: (any Communicator)?
    ) throws -> any AttentionBackend { try make(local: local, over: communicator, headRanks: nil) }

    public func make(
        local: (any AttentionBackend)?, over communicator: (any Communicator)?, headRanks: Int?
    ) throws -> any AttentionBackend {
        guard let local, let communicator else {
            throw RingZooError(.config, "the mesh backend needs a local backend and a communicator")
        }
        return MeshAttention(local, over: communicator, headRanks: headRanks, heads: heads, ring: ring)
    }
}
