// Letters: B batch, T tokens held here, C cached tokens, H query heads, Hkv key/value heads, D head size.

import AttentionCore
import TensorCore

/// What a model is told about the tokens it gets: where they stand in the sequence, and how to compute attention over all of it.
///
/// A model that asks the context is single-device code that runs unchanged on any number of ranks.
public struct SequenceContext: Sendable {
    /// Global positions of the tokens held here, the same in every batch row; what masks refer to.
    public var positions: Positions
    /// int32 [1|B, T]; what rotary angles refer to (they may restart at each document).
    public var rotaryPositions: Tensor
    /// int32 [1|B, T]; tokens see their own document only. nil where each row is one document.
    public var documents: Tensor?
    public var attention: any AttentionBackend
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
        precision: Precision = .float32, memory: MemoryPlan = MemoryPlan(), on device: any Device
    ) {
        self.positions = positions
        self.rotaryPositions =
            rotaryPositions
            ?? Tensor(positions.indices.map { Int32($0) }, [1, positions.count], on: device)
        self.documents = documents
        self.attention = attention
        self.precision = precision
        self.memory = memory
    }
}

/// A model that predicts the next token.
public protocol LanguageModel: Module {
    /// V.
    var vocabularySize: Int { get }

    /// The states [B, T, M] of int32 tokens [B, T], after the last norm.
    ///
    /// With a cache, the tokens continue those already in it, and their keys and values are appended.
    /// - Throws: what attention and the device throw.
    func hidden(_ tokens: Tensor, _ context: SequenceContext, cache: inout KeyValueCache?) throws -> Tensor

    /// The head [V, M] that turns states into logits; the embedding itself where the two are tied.
    var headWeight: Tensor { get }
}

extension LanguageModel {
    /// Sum of the cross-entropy of int32 targets [B, T] (negative ones are ignored), one element, float32 or float64. Divide by the
    /// number of targets in the whole batch, over all ranks.
    public func loss(_ tokens: Tensor, targets: Tensor, _ context: SequenceContext) throws -> Tensor {
        var none: KeyValueCache?
        let states = try hidden(tokens, context, cache: &none)
        return chunkedCrossEntropy(
            hidden: states, weight: headWeight, targets: targets, chunk: context.memory.lossChunk)
    }

    /// Logits [B, T, V] in float32 (float64 for a float64 model): for short inputs, since they exist whole.
    public func logits(_ tokens: Tensor, _ context: SequenceContext, cache: inout KeyValueCache?) throws -> Tensor {
        let states = try hidden(tokens, context, cache: &cache)
        return Tensor.matmul(states.cast(to: headWeight.dtype), headWeight.transposed())
    }

    /// Logits of the last token alone, [B, V].
    public func lastLogits(_ tokens: Tensor, _ context: SequenceContext, cache: inout KeyValueCache?) throws -> Tensor {
        let states = try hidden(tokens, context, cache: &cache)
        let last = states.slice(axis: 1, states.shape[1] - 1..<states.shape[1]).reshaped([states.shape[0], -1])
        return Tensor.matmul(last.cast(to: headWeight.dtype), headWeight.transposed())
    }
}

/// Keys and values of the tokens seen so far, per layer, for generation.
public struct KeyValueCache: Sendable {
    private var layers: [(keys: Tensor, values: Tensor)?]
    /// Tokens of the last layer that appended; all layers hold as many between forward passes.
    public private(set) var count = 0

    public init(layers: Int) { self.layers = [(keys: Tensor, values: Tensor)?](repeating: nil, count: layers) }

    /// Appends keys and values [B, Hkv, T, D] of a layer and returns all of them, [B, Hkv, C + T, D] views of the cache.
    ///
    /// Room is doubled when it runs out, so appending costs what is appended.
    public mutating func append(_ k: Tensor, _ v: Tensor, layer: Int) -> (keys: Tensor, values: Tensor) {
        let (start, end) = (layer == 0 ? count : count - k.shape[2], layer == 0 ? count + k.shape[2] : count)
        func grown(_ old: Tensor?) -> Tensor {
            if let old, old.shape[2] >= end { return old }
            var shape = k.shape
            shape[2] = max(end, 2 * (old?.shape[2] ?? 0))
            let new = Tensor.zeros(shape, k.dtype, on: k.device)
            if let old, start > 0 {
                new.device.copy(old.slice(axis: 2, 0..<start), into: new.slice(axis: 2, 0..<start))
            }
            return new
        }
        let (keys, values) = (grown(layers[layer]?.keys), grown(layers[layer]?.values))
        k.device.copy(k.detached, into: keys.slice(axis: 2, start..<end))
        v.device.copy(v.detached, into: values.slice(axis: 2, start..<end))
        layers[layer] = (keys, values)
        if layer == 0 { count = end }
        return (keys.slice(axis: 2, 0..<end), values.slice(axis: 2, 0..<end))
    }
}
