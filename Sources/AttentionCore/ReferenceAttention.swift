import Foundation
import TensorCore

/// The truth every backend is measured against: the definition of attention as plain loops, in float64 whatever the inputs.
///
/// It keeps one row of logits at a time, in the order in which the definition reads. Never optimise it.
public struct ReferenceAttention: Sendable {
    /// What the reference computed, all float64: out [B, H, Tq, D], lse [B, H, Tq], the standard deviation of the visible logits (the s of
    /// the error bounds), and with `dOut` the gradients.
    public struct Result: Sendable {
        public var out: [Double]
        public var lse: [Double]
        /// [B, H, Tq]: the row sees a key.
        public var rowSees: [Bool]
        /// [B, Hkv, Tk]: some query of the head's group sees the key.
        public var keySeen: [Bool]
        public var logitDeviation: Double
        public var dQ: [Double] = []
        public var dK: [Double] = []
        public var dV: [Double] = []
        public var dBias: [Double] = []
        public var dSinks: [Double] = []
    }

    /// Arithmetic in which every intermediate value is rounded; float64 is the oracle, the others are the naive computations of the
    /// same inputs that error bounds refer to.
    public enum Arithmetic: Sendable {
        case float64
        case float32
        /// Logits, probabilities and dS rounded to bfloat16, sums in float32.
        case bfloat16
    }

    public static func compute(
        q: Tensor, k: Tensor, v: Tensor, dOut: Tensor? = nil, _ problem: AttentionProblem,
        in arithmetic: Arithmetic = .float64
    ) -> Result {
        problem.check(q: q, k: k, v: v)
        switch arithmetic {
        case .float64: return run(Double.self, q, k, v, dOut, problem, round: { $0 })
        case .float32: return run(Float.self, q, k, v, dOut, problem, round: { $0 })
        case .bfloat16: return run(Float.self, q, k, v, dOut, problem, round: { BFloat16($0).float })
        }
    }

    private static func run<R: BinaryFloatingPoint & Sendable>(
        _ type: R.Type, _ q: Tensor, _ k: Tensor, _ v: Tensor, _ dOut: Tensor?, _ problem: AttentionProblem,
        round: (R) -> R
    ) -> Result {
        let (B, H, Hkv, D) = (q.shape[0], problem.heads, problem.keyHeads, problem.headSize)
        let (queries, keys) = (problem.queries.indices, problem.keys.indices)
        let (Tq, Tk) = (queries.count, keys.count)
        let mask = problem.mask
        let Q = q.doubles.map { R($0) }
        let K = k.doubles.map { R($0) }
        let V = v.doubles.map { R($0) }
        let G = dOut.map { $0.doubles.map { R($0) } }
        let queryDocuments = mask.documents.map { $0.queries.broadcast(to: [B, Tq]).values(Int32.self) }
        let keyDocuments = mask.documents.map { $0.keys.broadcast(to: [B, Tk]).values(Int32.self) }
        let biasShape = mask.bias?.shape ?? [1, 1, 1, 1]
        let bias = mask.bias.map { $0.detached.doubles }
        let sinks = mask.sinks.map { $0.detached.doubles }
        let scale = R(problem.scale)
        let cap = mask.softCap.map { R($0) }
        let keepScale = R(1 / (1 - (mask.dropout?.probability ?? 0)))

        var out = [Double](repeating: 0, count: B * H * Tq * D)
        var lse = [Double](repeating: 0, count: B * H * Tq)
        var rowSees = [Bool](repeating: false, count: B * H * Tq)
        var keySeen = [Bool](repeating: false, count: B * Hkv * Tk)
        var dQ = [R](repeating: 0, count: G == nil ? 0 : Q.count)
        var dK = [R](repeating: 0, count: G == nil ? 0 : K.count)
        var dV = [R](repeating: 0, count: G == nil ? 0 : V.count)
        var dBias = [R](repeating: 0, count: G == nil || bias == nil ? 0 : biasShape.reduce(1, *))
        var dSinks = [R](repeating: 0, count: G == nil || sinks == nil ? 0 : H)
        var (logitCount, logitSum, logitSquares) = (0.0, 0.0, 0.0)

        var visible = [Int]()
        var s = [R](repeating: 0, count: Tk)  // logits, then probabilities
        var slope = [R](repeating: 1, count: Tk)  // derivative of the soft cap
        for b in 0..<B {
            for h in 0..<H {
                let head = h / (H / Hkv)
                for i in 0..<Tq {
                    let row = (b * H + h) * Tq + i
                    func biasIndex(_ j: Int) -> Int {
                        func index(_ axis: Int, _ value: Int) -> Int { biasShape[axis] == 1 ? 0 : value }
                        return ((index(0, b) * biasShape[1] + index(1, h)) * biasShape[2] + index(2, i)) * biasShape[3]
                            + index(3, keys[j])
                    }
                    visible.removeAll(keepingCapacity: true)
                    for j in 0..<Tk where mask.allows(query: queries[i], key: keys[j]) {
                        if let queryDocuments, let keyDocuments,
                            queryDocuments[b * Tq + i] != keyDocuments[b * Tk + j]
                        {
                            continue
                        }
                        // A logit of -inf is a key out of sight; arithmetic on it would give NaN where a row has no other.
                        if let bias, bias[biasIndex(j)] == -.infinity { continue }
                        visible.append(j)
                    }
                    rowSees[row] = !visible.isEmpty
                    for j in visible { keySeen[(b * Hkv + head) * Tk + j] = true }
                    // s_ij = cap(scale q_i k_j) - slope_h |i - j| + bias_ij
                    for j in visible {
                        var dot: R = 0
                        let (qi, kj) = (row * D, ((b * Hkv + head) * Tk + j) * D)
                        for d in 0..<D { dot += Q[qi + d] * K[kj + d] }
                        var logit = scale * dot
                        slope[j] = 1
                        if let cap {
                            let t = tanh(Double(logit / cap))
                            logit = cap * R(t)
                            slope[j] = 1 - R(t) * R(t)
                        }
                        if let slopes = mask.alibiSlopes { logit -= R(slopes[h]) * R(abs(queries[i] - keys[j])) }
                        if let bias { logit += R(bias[biasIndex(j)]) }
                        s[j] = round(logit)
                        logitCount += 1
                        logitSum += Double(logit)
                        logitSquares += Double(logit) * Double(logit)
                    }
                    // lse_i = ln(sum_j exp(s_ij) + exp(sink_h))
                    var largest = visible.reduce(-R.infinity) { max($0, s[$1]) }
                    if let sinks { largest = max(largest, R(sinks[h])) }
                    var sum: R = 0
                    for j in visible { sum += R(exp(Double(s[j] - largest))) }
                    if let sinks { sum += R(exp(Double(R(sinks[h]) - largest))) }
                    lse[row] = sum == 0 ? -.infinity : Double(largest) + log(Double(sum))
                    // P = exp(s - lse), O = drop(P) V
                    for j in visible { s[j] = round(R(exp(Double(s[j] - largest))) / sum) }
                    func kept(_ j: Int) -> R {
                        guard let dropout = mask.dropout else { return 1 }
                        let head = problem.firstHead + h
                        return dropout.drops(batch: b, head: head, query: queries[i], key: keys[j]) ? 0 : keepScale
                    }
                    var o = [R](repeating: 0, count: D)
                    for j in visible {
                        let p = kept(j) * s[j]
                        let vj = ((b * Hkv + head) * Tk + j) * D
                        for d in 0..<D { o[d] += p * V[vj + d] }
                    }
                    for d in 0..<D { out[row * D + d] = Double(o[d]) }
                    guard let G else { continue }

                    // dV = drop(P)^T dO; dP = drop(dO V^T); delta = sum(P dP); dS = P (dP - delta)
                    var delta: R = 0
                    for d in 0..<D { delta += G[row * D + d] * o[d] }
                    for j in visible {
                        let kj = ((b * Hkv + head) * Tk + j) * D
                        let keep = kept(j)
                        var dP: R = 0
                        for d in 0..<D {
                            dP += G[row * D + d] * V[kj + d]
                            dV[kj + d] += keep * s[j] * G[row * D + d]
                        }
                        var dS = s[j] * (keep * dP - delta)
                        if !dBias.isEmpty { dBias[biasIndex(j)] += dS }
                        dS = round(dS * slope[j])
                        for d in 0..<D {
                            dQ[row * D + d] += scale * dS * K[kj + d]
                            dK[kj + d] += scale * dS * Q[row * D + d]
                        }
                    }
                    if let sinks, lse[row] > -.infinity { dSinks[h] -= R(exp(sinks[h] - lse[row])) * delta }
                }
            }
        }
        let mean = logitSum / max(1, logitCount)
        let variance = max(0, logitSquares / max(1, logitCount) - mean * mean)
        return Result(
            out: out, lse: lse, rowSees: rowSees, keySeen: keySeen, logitDeviation: variance.squareRoot(),
            dQ: dQ.map { Double($0) },
            dK: dK.map { Double($0) }, dV: dV.map { Double($0) }, dBias: dBias.map { Double($0) },
            dSinks: dSinks.map { Double($0) })
    }
}
