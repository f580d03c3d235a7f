import TensorCore

extension AttentionMask {
    /// The number of (query, key) pairs, over the rows of the batch, that positions, window and documents show: what the work of
    /// attention is counted by. Reads documents on the host.
    public func visiblePairs(queries: Positions, keys: Positions, batch: Int) -> Int {
        guard let documents else { return batch * visiblePairs(queries, keys) }
        if let length = documents.rehearsedLength {
            return batch * visiblePairs(queries: queries, keys: keys, documentLength: length)
        }
        let (rows, columns) = (queries.indices, keys.indices)
        let (ofQueries, ofKeys) = (documents.queries.values(Int32.self), documents.keys.values(Int32.self))
        return (0..<batch).reduce(0) { sum, b in
            func groups(_ positions: [Int], _ ids: [Int32], _ tensor: Tensor) -> [Int32: [Int]] {
                let start = tensor.shape[0] == 1 ? 0 : b * positions.count
                return Dictionary(grouping: positions.indices) { ids[start + $0] }.mapValues {
                    $0.map { positions[$0] }
                }
            }
            let keysOf = groups(columns, ofKeys, documents.keys)
            return sum
                + groups(rows, ofQueries, documents.queries).reduce(0) { sum, group in
                    sum + visiblePairs(group.value, (keysOf[group.key] ?? []).sorted())
                }
        }
    }

    /// Pairs where everything is one document, in a time that depends on the number of runs alone where strides are equal.
    private func visiblePairs(_ queries: Positions, _ keys: Positions) -> Int {
        if !causal && window == nil { return queries.count * keys.count }
        let ahead = causal ? min(0, window?.ahead ?? 0) : window!.ahead
        return queries.runs.reduce(0) { sum, q in
            sum
                + keys.runs.reduce(0) { sum, k in
                    sum + Self.pairs(q, k, upTo: ahead) - (window.map { Self.pairs(q, k, upTo: -$0.back - 1) } ?? 0)
                }
        }
    }

    /// Over the queries i of a run, the number of keys of another at or below i + shift.
    private static func pairs(_ q: Positions.Run, _ k: Positions.Run, upTo shift: Int) -> Int {
        if q.count > 1 && q.stride != k.stride {
            return (0..<q.count).reduce(0) {
                $0 + pairs(.init(start: q.start + $1 * q.stride, count: 1, stride: k.stride), k, upTo: shift)
            }
        }
        // The first query sees `first` keys, were there enough on either side, and each query sees one more than the one before.
        let distance = q.start + shift - k.start
        let first = (distance >= 0 ? distance / k.stride : (distance + 1) / k.stride - 1) + 1
        let none = min(q.count, max(0, 1 - first))
        let all = min(q.count, max(0, q.count - (k.count - first)))
        let some = q.count - none - all
        return some * (2 * (first + none) + some - 1) / 2 + all * k.count
    }

    /// Pairs of one document; keys in increasing order.
    private func visiblePairs(_ queries: [Int], _ keys: [Int]) -> Int {
        if !causal && window == nil { return queries.count * keys.count }
        /// Keys below `limit`.
        func count(below limit: Int) -> Int {
            var (low, high) = (0, keys.count)
            while low < high {
                let middle = (low + high) / 2
                if keys[middle] < limit { low = middle + 1 } else { high = middle }
            }
            return low
        }
        return queries.reduce(0) { sum, i in
            let ahead = causal ? i : i + window!.ahead
            let last = window.map { min(ahead, i + $0.ahead) } ?? ahead
            return sum + max(0, count(below: last + 1) - (window.map { count(below: i - $0.back) } ?? 0))
        }
    }
}
