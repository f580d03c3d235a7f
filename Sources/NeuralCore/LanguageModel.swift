// Letters: B batch, T tokens held here, M model width, V vocabulary.

import AttentionCore
import DistributedCore
import TensorCore

/// A model that predicts the next token.
public protocol LanguageModel: Module {
    /// V.
    var vocabularySize: Int { get }

    /// The states [B, T, M] of int32 tokens [B, T], after the last norm.
    ///
    /// With a cache, the tokens continue those already in it, and their keys and values are appended (those that the context says
    /// are kept here).
    /// - Throws: what attention and the device throw.
    func hidden(_ tokens: Tensor, _ context: SequenceContext, cache: inout KeyValueCache?) throws -> Tensor

    /// The head [V, M] that turns states into logits; the embedding itself where the two are tied.
    var headWeight: Tensor { get }

    /// The axis along which tensor parallelism cuts a parameter: 0 for maps that each rank computes other outputs of (and for embedding
    /// and head, cut by tokens), 1 for those of whose inputs it has a part; nil where every rank needs all.
    func tensorAxis(of parameter: String) -> Int?

    /// What keeps this model from being cut over so many tensor ranks, a sentence each, with what would work; empty where nothing does.
    func tensorParallelFaults(ranks: Int) -> [String]
}

extension LanguageModel {
    public func tensorAxis(of parameter: String) -> Int? { nil }

    public func tensorParallelFaults(ranks: Int) -> [String] {
        ranks == 1 ? [] : ["this model cannot be cut by layers; parallel.tensor: 1 would work"]
    }
}

extension LanguageModel {
    /// Sum of the cross-entropy of int32 targets [B, T] (negative ones are ignored), one element, float32 or float64. Divide by the
    /// number of targets in the whole batch, over all ranks.
    public func loss(_ tokens: Tensor, targets: Tensor, _ context: SequenceContext) throws -> Tensor {
        var none: KeyValueCache?
        let states = try hidden(tokens, context, cache: &none)
        return try chunkedCrossEntropy(
            hidden: context.copied(states),
            weight: context.sharding.gathered(headWeight, sentAs: context.precision.compute), targets: targets,
            chunk: context.memory.lossChunk,
            over: context.sharding.tensor.map { VocabularySlice(of: vocabularySize, over: $0) })
    }

    /// Logits [B, T, V] in float32 (float64 for a float64 model): for short inputs, since they exist whole.
    public func logits(_ tokens: Tensor, _ context: SequenceContext, cache: inout KeyValueCache?) throws -> Tensor {
        try logits(of: hidden(tokens, context, cache: &cache), context.sharding)!
    }

    /// The same of states [B, T, M]; nil where this rank has none. Every rank makes this call: where the rows of the head lie over ranks, or
    /// tensor parallelism cuts the vocabulary, each rank computes the logits of its tokens of the vocabulary.
    public func logits(of states: Tensor?, _ sharding: ParameterSharding) throws -> Tensor? {
        try sharding.product(states, by: headWeight).map { try sharding.joined($0) }
    }
}
