import AttentionCore
import DistributedCore
import ZooCore

/// Registers the `mesh` backend, composed from two that are registered already.
public struct MeshAttentionProvider: DistributedAttentionProvider {
    public let name = "mesh"
    public let summary = "groups of ranks that share heads, and a ring between the groups (attention.headRanks)"
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

    public func make(_ local: some AttentionBackend, over communicator: any Communicator) -> any AttentionBackend {
        mesh(local, communicator, headRanks: nil)
    }

    public func make(
        local: (any AttentionBackend)?, over communicator: (any Communicator)?, headRanks: Int?
    ) throws -> any AttentionBackend {
        let (local, communicator) = try required(local, communicator)
        return mesh(local, communicator, headRanks: headRanks)
    }

    private func mesh(
        _ local: some AttentionBackend, _ communicator: any Communicator, headRanks: Int?
    ) -> any AttentionBackend {
        MeshAttention(local, over: communicator, headRanks: headRanks, heads: heads, ring: ring)
    }
}
