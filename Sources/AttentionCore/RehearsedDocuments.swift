import TensorCore

// The documents of a rehearsed step, whose tensors have no values: each document of a row has as many tokens as the device says, so that
// a token's document follows from its position.
extension AttentionMask.Documents {
    /// Tokens of a document, where these are documents of a rehearsal.
    var rehearsedLength: Int? { (queries.device as? RehearsalDevice)?.documentLength }
}

extension AttentionProblem {
    /// A problem of a rehearsal as one for another device, with documents that can be read.
    func replayed(on device: any Device) -> AttentionProblem {
        guard let length = mask.documents?.rehearsedLength else { return self }
        func documents(_ positions: Positions) -> Tensor {
            Tensor(positions.indices.map { Int32($0 / length) }, [1, positions.count], on: device)
        }
        var problem = self
        problem.mask.documents = .init(queries: documents(queries), keys: documents(keys))
        return problem
    }
}

extension AttentionMask {
    /// Visible pairs of one row whose documents have `length` tokens each; in one pass over queries and keys.
    func visiblePairs(queries: Positions, keys: Positions, documentLength length: Int) -> Int {
        let keys = keys.indices.sorted()
        var (first, end) = (0, 0)
        return queries.indices.sorted().reduce(0) { sum, i in
            let start = i / length * length
            let ahead = causal ? min(0, window?.ahead ?? 0) : window?.ahead
            let lowest = max(start, window.map { i - $0.back } ?? start)
            let highest = min(start + length - 1, ahead.map { i + $0 } ?? .max)
            while first < keys.count && keys[first] < lowest { first += 1 }
            while end < keys.count && keys[end] <= highest { end += 1 }
            return sum + max(0, end - first)
        }
    }
}
