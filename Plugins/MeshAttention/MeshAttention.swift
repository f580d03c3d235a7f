import AttentionCore
import DistributedCore
import Synchronization
import TensorCore
import ZooCore

/// Attention on a mesh of ranks (USP, Fang and Zhao 2024, arXiv 2405.07719; LoongTrain, Gu et al. 2024, arXiv 2406.18485): U ranks
/// that follow each other share heads, and the N / U groups of them share the sequence by the ring.
///
/// Nothing but a composition: the heads' strategy over a group, with the ring between the groups as the backend it computes with. U = 1
/// is the ring, U = N the heads' strategy, to the bit. Memory and traffic are theirs. The blocks of the ring have U times the tokens
/// and 1/U of the heads of a rank, so they are as large as a rank's own, and there are N / U of them: a rank sends N / U - 1 key/value pairs
/// forward where a ring of all ranks sends N - 1, beside its exchange with the U - 1 others of its group.
public struct MeshAttention<Local: AttentionBackend>: DistributedAttention {
    public let local: Local
    public let communicator: any Communicator
    private let groups: MeshGroups
    public var name: String { "mesh" }

    /// - Parameters:
    ///   - headRanks: U, a divisor of the number of ranks; nil for the largest that also divides the key/value heads.
    ///   - heads: the strategy within a group.
    ///   - ring: the strategy between groups.
    public init(
        _ local: Local, over communicator: any Communicator, headRanks: Int?,
        heads: any AttentionProvider, ring: any AttentionProvider
    ) {
        self.local = local
        self.communicator = communicator
        groups = MeshGroups(local, communicator, headRanks, heads, ring)
    }

    public func forward(
        q: Tensor, k: Tensor, v: Tensor, into state: inout AttentionState, _ problem: AttentionProblem
    ) throws {
        let (backend, problem) = try groups.composition(problem)
        try backend.forward(q: q, k: k, v: v, into: &state, problem)
    }

    public func backward(
        dOut: Tensor, q: Tensor, k: Tensor, v: Tensor, lse: Tensor, delta: Tensor,
        into gradients: inout AttentionGradients, _ problem: AttentionProblem
    ) throws {
        let (backend, problem) = try groups.composition(problem)
        try backend.backward(
            dOut: dOut, q: q, k: k, v: v, lse: lse, delta: delta, into: &gradients, problem)
    }
}

/// The groups of a rank's mesh, split when the first problem tells how many key/value heads there are.
private final class MeshGroups: Sendable {
    private let local: any AttentionBackend
    private let communicator: any Communicator
    private let headRanks: Int?
    private let heads, ring: any AttentionProvider
    /// By U.
    private let made = Mutex<[Int: any AttentionBackend]>([:])

    init(
        _ local: any AttentionBackend, _ communicator: any Communicator, _ headRanks: Int?,
        _ heads: any AttentionProvider, _ ring: any AttentionProvider
    ) {
        (self.local, self.communicator, self.headRanks) = (local, communicator, headRanks)
        (self.heads, self.ring) = (heads, ring)
    }

    /// The two strategies in one, and the problem as the ring between groups has to see it.
    func composition(_ problem: AttentionProblem) throws -> (any AttentionBackend, AttentionProblem) {
        let size = communicator.size
        let U = headRanks ?? (1...size).last { size % $0 == 0 && problem.keyHeads % $0 == 0 }!
        let backend = try made.withLock { made in
            if let backend = made[U] { return backend }
            let group = try communicator.split { $0 / U }
            let between = try communicator.split { $0 % U }
            let backend = try heads.make(local: try ring.make(local: local, over: between), over: group)
            made[U] = backend
            return backend
        }
        var problem = problem
        problem.shards = problem.shards.map { shards in
            stride(from: 0, to: size, by: U).map { .joined(shards[$0..<min(size, $0 + U)]) }
        }
        return (backend, problem)
    }
}
