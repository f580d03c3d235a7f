import AttentionCore
import TensorCore
import Testing

/// The kernels drop the pairs that `AttentionMask.Dropout` names; the hash is written down twice and has to be one.
@Suite struct DropoutTests {
    /// Uniform probabilities over one-hot values: out[i, j] is 0 exactly where pair (i, j) is dropped.
    @Test(arguments: LocalKernel.allCases, [DType.float32, .float64])
    func kernelsDropTheSamePairs(_ local: LocalKernel, _ dtype: DType) throws {
        let device = CPUDevice(threads: 1)
        let (batch, heads, rows, keys) = (2, 3, 30, 41)
        let dropout = AttentionMask.Dropout(probability: 0.37, seed: 0xfeed_5eed_0123_4567)
        // Positions beyond 32 bits, out of order.
        let queryPositions = Positions(runs: [
            .init(start: 1 << 33, count: 10, stride: 3), .init(start: 5, count: 20),
        ])
        let keyPositions = Positions(runs: [
            .init(start: 0, count: 15), .init(start: (1 << 34) + 7, count: 16), .init(start: 100, count: 10, stride: 9),
        ])
        let problem = AttentionProblem(
            heads: heads, keyHeads: 1, headSize: keys, dtype: dtype, queries: queryPositions, keys: keyPositions,
            mask: AttentionMask(dropout: dropout))
        let q = Tensor.zeros([batch, heads, rows, keys], dtype, on: device)
        let k = Tensor.random(.normal, [batch, 1, keys, keys], dtype, key: 3, on: device)
        let identity = (0..<keys * keys).map { $0 / keys == $0 % keys ? 1.0 : 0 }
        let v = Tensor(identity + identity, [batch, 1, keys, keys], on: device).cast(to: dtype)
        let out = try local.backend.forward(q: q, k: k, v: v, problem).out.doubles
        var dropped = 0
        for b in 0..<batch {
            for h in 0..<heads {
                for (row, i) in queryPositions.indices.enumerated() {
                    for (column, j) in keyPositions.indices.enumerated() {
                        let got = out[((b * heads + h) * rows + row) * keys + column]
                        let drops = dropout.drops(batch: b, head: h, query: i, key: j)
                        dropped += drops ? 1 : 0
                        let kept = 1 / (Double(keys) * (1 - 0.37))
                        #expect(
                            drops ? got == 0 : abs(got - kept) < 1e-6, "batch \(b), head \(h), query \(i), key \(j)")
                    }
                }
            }
        }
        #expect(dropped > 2_000 && dropped < 3_500)
    }
}
