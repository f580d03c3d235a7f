import AttentionCore
import ConformanceKit
import TensorCore
import Testing

/// The oracle is what everything else is measured against, so it is held to a second formula that shares none of its code: whole
/// matrices in float64, gradients from the tape.
@Suite struct ReferenceAttentionTests {
    static let cases: [AttentionCase] = [
        AttentionCase("full", heads: 2, length: 9, headSize: 5, dtype: .float64),
        AttentionCase("grouped", batch: 2, heads: 4, keyHeads: 2, length: 7, headSize: 3, dtype: .float64, spread: 6),
        AttentionCase("causal", heads: 2, length: 8, headSize: 4, dtype: .float64, .init(causal: true)),
        AttentionCase(
            "window", heads: 2, length: 12, headSize: 4, dtype: .float64, .init(window: .init(back: 3, ahead: 1))),
        AttentionCase(
            "documents", batch: 2, heads: 2, length: 10, headSize: 4, dtype: .float64,
            .init(documentIDs: [0, 0, 1, 1, 1, 2, 2, 0, -1, -1, 3, 3, 3, 3, 3, 3, 4, 4, 4, -1])),
        AttentionCase("alibi", heads: 3, length: 8, headSize: 4, dtype: .float64, .init(causal: true, alibi: true)),
        AttentionCase("soft cap", heads: 2, length: 8, headSize: 4, dtype: .float64, spread: 4, .init(softCap: 3)),
        AttentionCase("sinks", heads: 3, length: 8, headSize: 4, dtype: .float64, .init(causal: true, sinks: true)),
        AttentionCase(
            "bias", batch: 2, heads: 2, length: 8, headSize: 4, dtype: .float64,
            .init(biasAxes: [true, false, true, true])),
        AttentionCase(
            "hidden pairs", batch: 1, heads: 2, length: 8, headSize: 4, dtype: .float64,
            .init(biasAxes: [false, true, true, true], hiddenShare: 0.6)),
        AttentionCase("dropout", heads: 2, length: 9, headSize: 4, dtype: .float64, .init(causal: true, dropout: 0.4)),
        AttentionCase(
            "everything", batch: 2, heads: 4, keyHeads: 2, length: 11, headSize: 6, dtype: .float64, spread: 2,
            .init(
                causal: true, window: .init(back: 6), documentLengths: [1, 4, 6], alibi: true, softCap: 5, sinks: true,
                biasAxes: [false, true, true, true], dropout: 0.3)),
    ]

    /// softmax over [keys, sink] of the whole logit matrix, as a composition of differentiable operations.
    private static func matrices(
        _ q: Tensor, _ k: Tensor, _ v: Tensor, bias: Tensor?, sinks: Tensor?, _ problem: AttentionProblem
    ) -> (out: Tensor, lse: Tensor) {
        let (batch, heads, device) = (q.shape[0], problem.heads, q.device)
        let (queries, keys) = (problem.queries.indices, problem.keys.indices)
        let (rows, columns, mask) = (queries.count, keys.count, problem.mask)
        let group = heads / problem.keyHeads
        func repeated(_ x: Tensor) -> Tensor {
            x.expanded(axis: 2).broadcast(to: [batch, problem.keyHeads, group, columns, problem.headSize])
                .reshaped([batch, heads, columns, problem.headSize])
        }
        var logits = Tensor.matmul(q, repeated(k).transposed()) * problem.scale
        if let cap = mask.softCap { logits = (logits * (1 / cap)).hyperbolicTangent * cap }
        if let slopes = mask.alibiSlopes {
            let distance = queries.flatMap { i in keys.map { Double(abs(i - $0)) } }
            logits =
                logits
                - Tensor(slopes, [heads, 1, 1], on: device) * Tensor(distance, [1, rows, columns], on: device)
        }
        var hidden = [Bool]()
        let queryDocuments = mask.documents.map {
            $0.queries.broadcast(to: [batch, rows]).contiguous().values(Int32.self)
        }
        let keyDocuments = mask.documents.map {
            $0.keys.broadcast(to: [batch, columns]).contiguous().values(Int32.self)
        }
        for b in 0..<batch {
            for (row, i) in queries.enumerated() {
                for (column, j) in keys.enumerated() {
                    let isLater = mask.causal && j > i
                    let isFar = mask.window.map { i - j > $0.back || j - i > $0.ahead } ?? false
                    let isForeign =
                        queryDocuments.map { $0[b * rows + row] != keyDocuments![b * columns + column] } ?? false
                    hidden.append(isLater || isFar || isForeign)
                }
            }
        }
        if let bias {
            // A constant -inf would make NaN in the product of a zero gradient with it; it is set below.
            let isHidden = bias.detached .== Tensor.scalar(-.infinity, .float64, on: device)
            logits = logits + Tensor.select(isHidden, .zeros([], .float64, on: device), bias)
            let shape = [batch, heads, rows, columns]
            logits = .select(isHidden.broadcast(to: shape), .scalar(-.infinity, .float64, on: device), logits)
        }
        let hiddenPairs = Tensor(hidden, [batch, 1, rows, columns], on: device)
        logits = .select(hiddenPairs, .scalar(-.infinity, .float64, on: device), logits)
        // Logits of these cases are small: exp needs no shift, and a hidden pair weighs exactly 0.
        let weights = logits.exponential
        var sum = weights.sum(axes: [3], keepAxes: true)
        if let sinks { sum = sum + sinks.reshaped([1, heads, 1, 1]).exponential }
        let lse = sum.logarithm.reshaped([batch, heads, rows])
        let (zero, one) = (Tensor.zeros([], .float64, on: device), Tensor.ones([], .float64, on: device))
        var probabilities = weights / .select(sum .== zero, one, sum)
        if let dropout = mask.dropout {
            var kept = [Double]()
            for b in 0..<batch {
                for h in 0..<heads {
                    for i in queries {
                        for j in keys {
                            let drops = dropout.drops(batch: b, head: h, query: i, key: j)
                            kept.append(drops ? 0 : 1 / (1 - dropout.probability))
                        }
                    }
                }
            }
            probabilities = probabilities * Tensor(kept, [batch, heads, rows, columns], on: device)
        }
        return (Tensor.matmul(probabilities, repeated(v)), lse)
    }

    private static func expect(
        _ name: String, _ got: [Double], _ wanted: [Double], sourceLocation: SourceLocation = #_sourceLocation
    ) {
        #expect(got.count == wanted.count, "\(name)", sourceLocation: sourceLocation)
        for (index, (a, b)) in zip(got, wanted).enumerated() where a != b {
            #expect(
                abs(a - b) <= 1e-12 * max(1, abs(b)), "\(name)[\(index)]: \(a), in matrices \(b)",
                sourceLocation: sourceLocation)
        }
    }

    @Test(arguments: cases)
    func oracleEqualsTheMatrixForm(_ input: AttentionCase) throws {
        let inputs = input.inputs(on: CPUDevice(threads: 1))
        let problem = inputs.problem
        let oracle = ReferenceAttention.compute(q: inputs.q, k: inputs.k, v: inputs.v, dOut: inputs.dOut, problem)
        let whole = Self.matrices(
            inputs.q, inputs.k, inputs.v, bias: problem.mask.bias, sinks: problem.mask.sinks, problem)
        Self.expect("out", oracle.out, whole.out.doubles)
        Self.expect("lse", oracle.lse, whole.lse.doubles)
        let parameters = [inputs.q, inputs.k, inputs.v] + [problem.mask.bias, problem.mask.sinks].compactMap { $0 }
        let gradients = try valueAndGradient(at: parameters) { x in
            let bias = problem.mask.bias == nil ? nil : x[3]
            let sinks = problem.mask.sinks == nil ? nil : x[x.count - 1]
            return (Self.matrices(x[0], x[1], x[2], bias: bias, sinks: sinks, problem).out * inputs.dOut).sum()
        }.gradients.map(\.doubles)
        Self.expect("dQ", oracle.dQ, gradients[0])
        Self.expect("dK", oracle.dK, gradients[1])
        Self.expect("dV", oracle.dV, gradients[2])
        if problem.mask.bias != nil { Self.expect("dBias", oracle.dBias, gradients[3]) }
        if problem.mask.sinks != nil { Self.expect("dSinks", oracle.dSinks, gradients.last!) }
    }

    /// The naive computations are what error bounds refer to; they have to be naive, and of the precision they say.
    @Test func naiveArithmeticHasTheErrorsOfItsType() {
        let input = AttentionCase("errors", heads: 2, length: 64, headSize: 32, dtype: .float64, spread: 3)
        let inputs = input.inputs(on: CPUDevice(threads: 1))
        func error(_ arithmetic: ReferenceAttention.Arithmetic) -> Double {
            func out(_ arithmetic: ReferenceAttention.Arithmetic) -> [Double] {
                ReferenceAttention.compute(q: inputs.q, k: inputs.k, v: inputs.v, inputs.problem, in: arithmetic).out
            }
            return zip(out(arithmetic), out(.float64)).map { abs($0 - $1) }.max()!
        }
        #expect(error(.float32) > 1e-8 && error(.float32) < 1e-5, "\(error(.float32))")
        #expect(error(.bfloat16) > 1e-4 && error(.bfloat16) < 0.2, "\(error(.bfloat16))")
    }

    @Test func rowsWithoutKeysAreZeroAndMinusInfinity() {
        let input = AttentionCase(
            "blind", heads: 1, length: 4, headSize: 2, dtype: .float64,
            .init(documentIDs: [0, 0, 0, 5], queryDocumentIDs: [0, 1, 0, 0]))
        let inputs = input.inputs(on: CPUDevice(threads: 1))
        let oracle = ReferenceAttention.compute(
            q: inputs.q, k: inputs.k, v: inputs.v, dOut: inputs.dOut, inputs.problem)
        #expect(oracle.rowSees == [true, false, true, true])
        #expect(oracle.keySeen == [true, true, true, false])
        #expect(oracle.lse[1] == -.infinity && oracle.lse[0].isFinite)
        #expect(oracle.out[2...3] == [0, 0] && oracle.dQ[2...3] == [0, 0])
        #expect(oracle.dK[6...7] == [0, 0] && oracle.dV[6...7] == [0, 0])
    }
}
