// Letters: B batch, T tokens held here, M model width, H query heads, Hkv key/value heads, D head size, V vocabulary.

import AttentionCore
import NeuralCore
import TensorCore

/// The LLaMA family (Touvron et al. 2023, arXiv 2302.13971; grouped-query attention as in LLaMA 2, arXiv 2307.09288): a pre-norm
/// transformer with rotary positions, RMS norms and SwiGLU.
///
/// Single-device code: where the tokens stand, and who computes attention over the whole sequence, the context says.
public struct Llama: LanguageModel {
    public let configuration: LlamaConfiguration
    var embedding: Embedding
    var layers: [LlamaBlock]
    var norm: RMSNorm
    /// nil where the head is tied to the embedding.
    var head: Linear?
    let rotary: RotaryEmbedding

    /// Weights as they start: norms 1, everything else 0 until `initialise`.
    public init(_ configuration: LlamaConfiguration, _ dtype: DType = .float32, on device: any Device) throws {
        try configuration.check()
        self.configuration = configuration
        let c = configuration
        embedding = Embedding(vocabulary: c.vocabulary, width: c.width, dtype, on: device)
        layers = (0..<c.layers).map { LlamaBlock(c, index: $0, dtype, on: device) }
        norm = RMSNorm(width: c.width, epsilon: c.normEpsilon, dtype, on: device)
        head = c.tied ? nil : Linear(inputs: c.width, outputs: c.vocabulary, dtype, on: device)
        rotary = try RotaryEmbedding(headSize: c.headSize, base: c.ropeBase, scaling: c.ropeScaling)
    }

    public var vocabularySize: Int { configuration.vocabulary }
    public var headWeight: Tensor { head?.weight ?? embedding.weight }

    public func hidden(_ tokens: Tensor, _ context: SequenceContext, cache: inout KeyValueCache?) throws -> Tensor {
        let tables = rotary.tables(positions: context.rotaryPositions, context.precision.statistics)
        var x_BTM = try embedding(tokens, of: vocabularySize, context)
        x_BTM = try context.through(layers, x_BTM, cache: &cache) { layer, x, cache in
            try layer(x, tables, context, cache: &cache)
        }
        return try context.whole(norm)(x_BTM)  // [B, T, M]
    }

    public mutating func visit(_ visitor: inout ParameterVisitor) {
        visitor("embedding", &embedding)
        visitor("layers", &layers)
        visitor("norm", &norm)
        visitor("head", &head)
    }
}

/// h = x + attention(norm(x)), then h + feedForward(norm(h)).
struct LlamaBlock: Module {
    var attentionNorm: RMSNorm
    var attention: LlamaAttention
    var feedForwardNorm: RMSNorm
    var feedForward: SwiGLUFeedForward

    init(_ c: LlamaConfiguration, index: Int, _ dtype: DType, on device: any Device) {
        attentionNorm = RMSNorm(width: c.width, epsilon: c.normEpsilon, dtype, on: device)
        attention = LlamaAttention(c, layer: index, dtype, on: device)
        feedForwardNorm = RMSNorm(width: c.width, epsilon: c.normEpsilon, dtype, on: device)
        feedForward = SwiGLUFeedForward(width: c.width, hiddenSize: c.feedForward, dtype, on: device)
    }

    func callAsFunction(
        _ x_BTM: Tensor, _ tables: RotaryTables, _ context: SequenceContext, cache: inout KeyValueCache?
    ) throws -> Tensor {
        let a_BTM = context.copied(attentionNorm(x_BTM))
        let o_BTM = try context.reduced(attention(a_BTM, tables, context, cache: &cache))
        let (h_BTM, n_BTM) = feedForwardNorm(x_BTM, plus: o_BTM)
        let f_BTM = context.copied(n_BTM)
        return try h_BTM + context.reduced(feedForward(f_BTM, chunk: context.memory.feedForwardChunk))
    }

    mutating func visit(_ visitor: inout ParameterVisitor) {
        visitor("attention_norm", &attentionNorm)
        visitor("attention", &attention)
        visitor("feed_forward_norm", &feedForwardNorm)
        visitor("feed_forward", &feedForward)
    }
}

/// Grouped-query attention: H query heads share Hkv key/value heads, which are never expanded.
struct LlamaAttention: Module {
    var q, k, v, o: Linear
    let headSize, layer: Int

    /// Of the slice that is here, where the layers are cut over ranks.
    var heads: Int { q.weight.shape[0] / headSize }
    var keyHeads: Int { k.weight.shape[0] / headSize }

    init(_ c: LlamaConfiguration, layer: Int, _ dtype: DType, on device: any Device) {
        q = Linear(inputs: c.width, outputs: c.heads * c.headSize, dtype, on: device)
        k = Linear(inputs: c.width, outputs: c.keyHeads * c.headSize, dtype, on: device)
        v = Linear(inputs: c.width, outputs: c.keyHeads * c.headSize, dtype, on: device)
        o = Linear(inputs: c.heads * c.headSize, outputs: c.width, dtype, on: device)
        (headSize, self.layer) = (c.headSize, layer)
    }

    func callAsFunction(
        _ x_BTM: Tensor, _ tables: RotaryTables, _ context: SequenceContext, cache: inout KeyValueCache?
    ) throws -> Tensor {
        let (B, T) = (x_BTM.shape[0], x_BTM.shape[1])
        // [B, T, H, D]
        func split(_ x: consuming Tensor, _ heads: Int) -> Tensor { x.reshaped([B, T, heads, headSize]) }
        let q_BHTD = split(q(x_BTM), heads).rotary(tables).transposed(1, 2)
        var k_BHTD = split(k(x_BTM), keyHeads).rotary(tables).transposed(1, 2)
        var v_BHTD = split(v(x_BTM), keyHeads).transposed(1, 2)

        var problem = AttentionProblem(
            heads: heads, keyHeads: keyHeads, headSize: headSize, dtype: x_BTM.dtype, queries: context.positions,
            keys: context.positions, mask: .causal)
        problem.mask.documents = context.documents.map { .init(queries: $0, keys: $0) }
        if cache == nil {
            problem.shards = context.shards
        } else {
            (k_BHTD, v_BHTD, problem.keys) = cache!.append(k_BHTD, v_BHTD, layer: layer, context)
        }
        let o_BHTD = try attend(q_BHTD, k_BHTD, v_BHTD, problem, on: context.attention, layer: layer)
        return o(o_BHTD.transposed(1, 2).reshaped([B, T, heads * headSize]))  // [B, T, M]
    }

    mutating func visit(_ visitor: inout ParameterVisitor) {
        visitor("q_proj", &q)
        visitor("k_proj", &k)
        visitor("v_proj", &v)
        visitor("o_proj", &o)
    }
}
