// Letters: B batch, T tokens held here.

import AttentionCore
import DistributedCore
import TensorCore

/// What a model is told about the tokens it gets: where they stand in the sequence, how to compute attention over all of it, and where
/// the parameters lie.
///
/// A model that asks the context is single-device code that runs unchanged on any number of ranks.
public struct SequenceContext: Sendable {
    /// Global positions of the tokens held here, the same in every batch row; what masks refer to.
    public var positions: Positions
    /// int32 [1|B, T]; what rotary angles refer to (they may restart at each document).
    public var rotaryPositions: Tensor
    /// int32 [1|B, T]; tokens see their own document only. nil where each row is one document.
    public var documents: Tensor?
    /// What every rank holds of this batch, the same on all of them (`AttentionProblem.shards`); nil where that is not known.
    public var shards: [SequenceShard]?
    public var attention: any AttentionBackend
    /// Which parts of the parameters this rank has; a model sees it through `through`, `whole`, `copied` and `reduced`.
    public var sharding: ParameterSharding
    /// Rows of the tokens whose keys and values a cache keeps here; nil for all. Where every rank has the same tokens, each is kept by
    /// one rank alone.
    public var keptHere: Range<Int>?
    public var precision: Precision
    public var memory: MemoryPlan

    /// What is computed again, and how much at a time, to save memory.
    public struct MemoryPlan: Sendable, Hashable {
        /// Keep the input of each block alone, and compute the block again in the backward pass.
        public var rematerialiseBlocks = false
        /// Tokens of the feed-forward layers that are computed at a time.
        public var feedForwardChunk = ChunkSize.auto
        /// Tokens of the head and the loss that are computed at a time.
        public var lossChunk = ChunkSize.auto

        public init() {}
    }

    /// - Parameter rotaryPositions: nil for the global positions themselves.
    public init(
        positions: Positions, rotaryPositions: Tensor? = nil, documents: Tensor? = nil, attention: any AttentionBackend,
        sharding: ParameterSharding = ParameterSharding(), precision: Precision = .float32,
        memory: MemoryPlan = MemoryPlan(), on device: any Device
    ) {
        self.positions = positions
        self.rotaryPositions =
            rotaryPositions
            ?? Tensor(positions.indices.map { Int32($0) }, [1, positions.count], on: device)
        self.documents = documents
        self.attention = attention
        self.sharding = sharding
        self.precision = precision
        self.memory = memory
    }
}
