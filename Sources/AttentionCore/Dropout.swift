extension AttentionMask.Dropout {
    /// Whether the probability of this (query, key) pair is dropped.
    ///
    /// A counter hash on 32-bit words, with lowbias32 (C. Wellons 2018, public domain) as the mixer. A row has two keys; key t folds
    /// seed (low and high half), batch row, head and query position (low and high half) into r = mix(r ^ word), starting from
    /// 0x9e3779b9 and 0x85ebca6b. A column is c = low ^ mix(high) of the key position; the draw mix(mix(c ^ key 0) + key 1) keeps the
    /// pair where it is at least floor(p 2^32).
    public func drops(batch: Int, head: Int, query: Int, key: Int) -> Bool {
        let words = [
            UInt32(truncatingIfNeeded: seed), UInt32(truncatingIfNeeded: seed >> 32), UInt32(truncatingIfNeeded: batch),
            UInt32(truncatingIfNeeded: head), UInt32(truncatingIfNeeded: query),
            UInt32(truncatingIfNeeded: query >> 32),
        ]
        let first = words.reduce(0x9e37_79b9) { mix($0 ^ $1) }
        let second = words.reduce(0x85eb_ca6b) { mix($0 ^ $1) }
        let column = UInt32(truncatingIfNeeded: key) ^ mix(UInt32(truncatingIfNeeded: key >> 32))
        return mix(mix(column ^ first) &+ second) < UInt32((probability * 4_294_967_296).rounded(.down))
    }
}

private func mix(_ value: UInt32) -> UInt32 {
    var x = value
    x ^= x >> 16
    x &*= 0x7feb_352d
    x ^= x >> 15
    x &*= 0x846c_a68b
    x ^= x >> 16
    return x
}
