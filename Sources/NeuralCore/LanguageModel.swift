// Letters: B batch, T tokens held here, M model width, V vocabulary.

import AttentionCore
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

    /// Logits [B, V] of the last token alone, from states [B, T, M].
    public func lastLogits(of states: Tensor) -> Tensor {
        let last = states.slice(axis: 1, states.shape[1] - 1..<states.shape[1]).reshaped([states.shape[0], -1])
        return Tensor.matmul(last.cast(to: headWeight.dtype), headWeight.transposed())
    }
}
