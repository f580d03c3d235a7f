import Foundation

/// Attention as it is written in a textbook, in float64: every logit at once, no blocks, no tricks. A `rounding` other than none
/// makes the naive computation of it: logits, probabilities and dS are rounded where they would be stored.
struct Oracle {
    var out: [Double]  // [B, H, Tq, D]
    var lse: [Double]  // [B, H, Tq], -inf where a row saw no key
    var dq: [Double]
    var dk: [Double]
    var dv: [Double]
    var dbias: [Double]
    /// Sums of |dS| behind each dbias: where a bias broadcasts, its gradient is a long sum that cancels.
    var dbiasTerms: [Double]
    var spread: Double  // s: max(1, standard deviation of the visible logits)

    init(
        _ c: AttentionCase, q: [Double], k: [Double], v: [Double], dout: [Double], bias: [Double]?,
        rounding: (Double) -> Double = { $0 }
    ) {
        let size = c.size
        out = .init(repeating: 0, count: q.count)
        lse = .init(repeating: -.infinity, count: c.batch * c.heads * c.queries)
        dq = .init(repeating: 0, count: q.count)
        dk = .init(repeating: 0, count: k.count)
        dv = .init(repeating: 0, count: v.count)
        dbias = .init(repeating: 0, count: bias?.count ?? 0)
        dbiasTerms = dbias
        var sum = 0.0
        var squares = 0.0
        var visible = 0.0
        var logits = [Double](repeating: 0, count: c.keys)
        var slope = logits  // derivative of the cap
        var weights = logits
        var kept = logits
        for b in 0..<c.batch {
            for h in 0..<c.heads {
                let keyRow = (b * c.kvHeads + h / c.group) * c.keys
                for i in 0..<c.queries {
                    let row = (b * c.heads + h) * c.queries + i
                    var largest = -Double.infinity
                    for j in 0..<c.keys {
                        guard c.sees(b, i, j) else {
                            logits[j] = -.infinity
                            continue
                        }
                        var x = 0.0
                        for d in 0..<size { x += q[row * size + d] * k[(keyRow + j) * size + d] }
                        x *= c.scale
                        slope[j] = 1
                        if c.softCap > 0 {
                            let t = tanh(x / c.softCap)
                            slope[j] = 1 - t * t
                            x = c.softCap * t
                        }
                        if let slopes = c.slopes {
                            x -= slopes[h] * Double((c.queryPositions[i] - c.keyPositions[j]).magnitude)
                        }
                        if let bias { x += bias[c.biasIndex(b, h, i, j)] }
                        x = rounding(x)
                        logits[j] = x
                        largest = max(largest, x)
                        sum += x
                        squares += x * x
                        visible += 1
                    }
                    guard largest > -.infinity else { continue }
                    let total = logits.reduce(0) { $0 + exp($1 - largest) }
                    lse[row] = largest + log(total)
                    for j in 0..<c.keys {
                        weights[j] = exp(logits[j] - lse[row])
                        kept[j] = 1
                        if c.dropout > 0 {
                            let keeps = dropoutKeeps(
                                c.seed, b, h, c.queryPositions[i], c.keyPositions[j], c.dropout)
                            kept[j] = keeps ? 1 / (1 - c.dropout) : 0
                        }
                        let factor = rounding(weights[j] * kept[j])
                        if factor == 0 { continue }
                        for d in 0..<size { out[row * size + d] += factor * v[(keyRow + j) * size + d] }
                    }
                    var delta = 0.0
                    for d in 0..<size { delta += dout[row * size + d] * out[row * size + d] }
                    for j in 0..<c.keys where weights[j] > 0 {
                        var dp = 0.0
                        for d in 0..<size { dp += dout[row * size + d] * v[(keyRow + j) * size + d] }
                        let ds = weights[j] * (dp * kept[j] - delta)
                        if bias != nil {
                            dbias[c.biasIndex(b, h, i, j)] += ds
                            dbiasTerms[c.biasIndex(b, h, i, j)] += abs(ds)
                        }
                        let dx = rounding(ds * slope[j]) * c.scale
                        let factor = rounding(weights[j] * kept[j])
                        for d in 0..<size {
                            dv[(keyRow + j) * size + d] += factor * dout[row * size + d]
                            dk[(keyRow + j) * size + d] += dx * q[row * size + d]
                            dq[row * size + d] += dx * k[(keyRow + j) * size + d]
                        }
                    }
                }
            }
        }
        let mean = visible > 0 ? sum / visible : 0
        spread = visible > 0 ? max(1, (squares / visible - mean * mean).squareRoot()) : 1
    }
}

/// The finaliser of the dropout hash, written from the words of the header.
func mix(_ value: UInt32) -> UInt32 {
    var x = value
    x ^= x >> 16
    x &*= 0x7feb_352d
    x ^= x >> 15
    x &*= 0x846c_a68b
    x ^= x >> 16
    return x
}

func dropoutDraw(_ seed: UInt64, _ batch: Int, _ head: Int, _ query: Int64, _ key: Int64) -> UInt32 {
    func low(_ x: UInt64) -> UInt32 { UInt32(truncatingIfNeeded: x) }
    func high(_ x: UInt64) -> UInt32 { UInt32(x >> 32) }
    let place = UInt64(query)
    let words = [
        low(seed), high(seed), UInt32(truncatingIfNeeded: batch), UInt32(truncatingIfNeeded: head), low(place),
        high(place),
    ]
    let key0 = words.reduce(0x9e37_79b9) { mix($0 ^ $1) }
    let key1 = words.reduce(0x85eb_ca6b) { mix($0 ^ $1) }
    let column = low(UInt64(key)) ^ mix(high(UInt64(key)))
    return mix(mix(column ^ key0) &+ key1)
}

func dropoutKeeps(_ seed: UInt64, _ batch: Int, _ head: Int, _ query: Int64, _ key: Int64, _ probability: Double)
    -> Bool
{
    dropoutDraw(seed, batch, head, query, key) >= UInt32(probability * 0x1p32)
}
