import TensorCore

extension AttentionMask {
    /// The number of (query, key) pairs, over the rows of the batch, that positions, window and documents show: what the work of
    /// attention is counted by. Reads documents on the host.
    public func visiblePairs(queries: Positions, keys: Positions, batch: Int) -> Int {
        let (rows, columns) = (queries.indices, keys.indices)
        guard let documents else { return batch * visiblePairs(rows, columns.sorted()) }
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
