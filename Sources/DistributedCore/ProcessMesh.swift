import TensorCore

/// The ranks of a run, arranged by what they share: data x sequence x tensor.
///
/// Rank ((d * sequence + s) * tensor + t) of the world stands at (d, s, t): ranks of a tensor group, which talk most, are neighbours,
/// and those of a sequence group come next.
public struct ProcessMesh: Sendable {
    /// Ranks along each axis.
    public struct Shape: Sendable, Hashable, CustomStringConvertible {
        /// Ranks that each take other rows of a batch.
        public var data: Int
        /// Ranks that a sequence is cut over.
        public var sequence: Int
        /// Ranks that the layers are cut over.
        public var tensor: Int

        public init(data: Int = 1, sequence: Int = 1, tensor: Int = 1) {
            (self.data, self.sequence, self.tensor) = (data, sequence, tensor)
        }

        public var ranks: Int { data * sequence * tensor }
        public var description: String { "data \(data) x sequence \(sequence) x tensor \(tensor)" }
    }

    public let shape: Shape
    /// Which of the `shape.data` parts of a batch this rank takes.
    public let dataIndex: Int
    public let world: any Communicator
    /// Ranks that share this rank's sequences.
    public let sequence: any Communicator
    /// Ranks that hold the same slices of the layers (data x sequence): gradients are summed over these.
    public let replicas: any Communicator
    /// Ranks that hold the other slices of the same layers; nil where layers are whole.
    public let tensor: (any Communicator)?
    /// How parameters lie over these ranks.
    public let sharding: ParameterSharding

    /// Groups that are there already, as a rehearsal has them.
    /// - Parameter shardParameters: whether those of `replicas` keep rows of the parameters apart.
    public init(
        _ shape: Shape, shardParameters: Bool = false, dataIndex: Int = 0, world: any Communicator,
        sequence: any Communicator, replicas: any Communicator, tensor: (any Communicator)?
    ) {
        (self.shape, self.dataIndex, self.world) = (shape, dataIndex, world)
        (self.sequence, self.replicas, self.tensor) = (sequence, replicas, tensor)
        sharding = ParameterSharding(tensor: tensor, rows: shardParameters && replicas.size > 1 ? replicas : nil)
    }

    /// All ranks share each sequence.
    public init(sequence world: any Communicator) {
        self.init(Shape(sequence: world.size), world: world, sequence: world, replicas: world, tensor: nil)
    }

    /// The rank in the world of the first of those that hold part `sequence` of the first sequence.
    public func worldRank(sequence: Int) -> Int { sequence * shape.tensor }

    /// Splits a world of `shape.ranks` ranks; every rank of it makes this call.
    /// - Parameter shardParameters: whether ranks that have the same slices of the layers keep rows of the parameters apart.
    public init(_ shape: Shape, shardParameters: Bool = false, over world: any Communicator) throws {
        if shape.ranks != world.size { fatalError("ProcessMesh: \(shape) is not \(world.size) ranks") }
        let tensorIndex = world.rank % shape.tensor
        let dataIndex = world.rank / (shape.sequence * shape.tensor)
        // A group of all ranks is the world itself.
        func group(_ size: Int, color: Int) throws -> any Communicator {
            size == world.size ? world : try world.split(color: color)
        }
        self.init(
            shape, shardParameters: shardParameters, dataIndex: dataIndex, world: world,
            sequence: try group(shape.sequence, color: dataIndex * shape.tensor + tensorIndex),
            replicas: try group(shape.data * shape.sequence, color: tensorIndex),
            tensor: shape.tensor == 1 ? nil : try group(shape.tensor, color: world.rank / shape.tensor))
    }
}
