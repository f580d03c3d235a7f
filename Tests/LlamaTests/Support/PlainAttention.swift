// Letters: B batch, H query heads, Hkv key/value heads, G = H / Hkv, Tq queries, Tk keys, D head size.

import AttentionCore
import Foundation
import TensorCore

/// Attention from whole matrices in float64: shares no code with the kernels, so that a model tested with both is tested by two.
struct PlainAttention: AttentionBackend {
    var name: String { "plain" }

    func unsupportedReasons(_ problem: AttentionProblem) -> [String] {
        let mask = problem.mask
        let isPlain =
            mask.alibiSlopes == nil && mask.softCap == nil && mask.sinks == nil && mask.bias == nil
            && mask.dropout == nil
        return isPlain ? [] : ["positions and documents only"]
    }

    func forward(
        q: Tensor, k: Tensor, v: Tensor, into state: inout AttentionState, _ problem: AttentionProblem
    ) throws {
        if problem.queries.count == 0 || problem.keys.count == 0 { return }
        let (s_BHQK, visible) = logits(q, k, problem)
        let nothing = Tensor.scalar(0, .float64, on: q.device)
        let lowest = Tensor.scalar(-.infinity, .float64, on: q.device)
        let largest = Tensor.select(visible, s_BHQK, lowest).maximum(axes: [3], keepAxes: true)
        let exponents = largest.doubles.map { ($0 / ln2).rounded(.up) }
        let finite = Tensor(exponents.map { $0.isFinite ? $0 * ln2 : 0 }, largest.shape, on: q.device)
        let terms = Tensor.select(visible, (s_BHQK - finite).exponential, nothing)

        var block = AttentionState(problem, batch: q.shape[0], on: q.device)
        let type = problem.accumulator
        block.reference = Tensor(exponents, block.sum.shape, on: q.device).cast(to: type)
        block.sum = terms.sum(axes: [3]).cast(to: type)
        block.accumulator = Tensor.matmul(terms, perQueryHead(v, problem)).cast(to: type)
        state.merge(block)
    }

    func backward(
        dOut: Tensor, q: Tensor, k: Tensor, v: Tensor, lse: Tensor, delta: Tensor,
        into gradients: inout AttentionGradients, _ problem: AttentionProblem
    ) throws {
        if problem.queries.count == 0 || problem.keys.count == 0 { return }
        let (s_BHQK, visible) = logits(q, k, problem)
        let nothing = Tensor.scalar(0, .float64, on: q.device)
        let p = Tensor.select(visible, (s_BHQK - lse.expanded(axis: 3)).exponential, nothing)
        let g = dOut.cast(to: .float64)
        let dP = Tensor.matmul(g, perQueryHead(v, problem).transposed())
        let dS = p * (dP - delta.cast(to: .float64).expanded(axis: 3)) * problem.scale
        func perKeyHead(_ x: Tensor) -> Tensor {
            let shape = [x.shape[0], problem.keyHeads, problem.heads / problem.keyHeads, x.shape[2], x.shape[3]]
            return x.reshaped(shape).sum(axes: [2])
        }
        let type = problem.accumulator
        gradients.v = gradients.v + perKeyHead(Tensor.matmul(p.transposed(), g)).cast(to: type)
        gradients.q = gradients.q + Tensor.matmul(dS, perQueryHead(k, problem)).cast(to: type)
        gradients.k =
            gradients.k + perKeyHead(Tensor.matmul(dS.transposed(), q.cast(to: .float64).contiguous())).cast(to: type)
    }

    /// [B, Hkv, Tk, D] -> [B, H, Tk, D], float64.
    private func perQueryHead(_ x: Tensor, _ problem: AttentionProblem) -> Tensor {
        let (B, Hkv, Tk, D) = (x.shape[0], x.shape[1], x.shape[2], x.shape[3])
        let group = problem.heads / problem.keyHeads
        return x.cast(to: .float64).contiguous().expanded(axis: 2).broadcast(to: [B, Hkv, group, Tk, D])
            .reshaped([B, Hkv * group, Tk, D])
    }

    /// Scaled products [B, H, Tq, Tk], and which of them are visible [1|B, 1, Tq, Tk].
    private func logits(_ q: Tensor, _ k: Tensor, _ problem: AttentionProblem) -> (Tensor, Tensor) {
        let wide = q.cast(to: .float64).contiguous()
        let s = Tensor.matmul(wide, perQueryHead(k, problem).transposed()) * problem.scale
        let (queries, keys) = (problem.queries.indices, problem.keys.indices)
        let documents = problem.mask.documents
        let rows = documents.map { max($0.queries.shape[0], $0.keys.shape[0]) } ?? 1
        let queryIds = documents?.queries.broadcast(to: [rows, queries.count]).values(Int32.self)
        let keyIds = documents?.keys.broadcast(to: [rows, keys.count]).values(Int32.self)
        var visible: [Bool] = []
        for row in 0..<rows {
            for (i, query) in queries.enumerated() {
                for (j, key) in keys.enumerated() {
                    let isSameDocument =
                        queryIds.map { $0[row * queries.count + i] == keyIds![row * keys.count + j] } ?? true
                    visible.append(isSameDocument && problem.mask.allows(query: query, key: key))
                }
            }
        }
        return (s, Tensor(visible, [rows, 1, queries.count, keys.count], on: q.device))
    }
}

private let ln2 = log(2.0)
