/// What one of the ranks that share a sequence holds, as far as every rank knows it without asking: enough to tell which of the
/// others' keys it cannot see.
public struct SequenceShard: Sendable, Hashable {
    /// Where its tokens stand.
    public var positions: Positions
    /// The smallest and the largest document among its tokens, for each row of the batch; nil where they are not known.
    public var documents: [ClosedRange<Int32>]?

    public init(_ positions: Positions, documents: [ClosedRange<Int32>]? = nil) {
        self.positions = positions
        self.documents = documents
    }

    /// The shards of a whole batch whose rows have these documents.
    ///
    /// - Parameters:
    ///   - positions: what each rank holds.
    ///   - documents: the document of every token, [B, T] row-major; nil where rows are one document.
    public static func all(_ positions: [Positions], documents: [Int32]? = nil, length: Int) -> [SequenceShard] {
        positions.map { own in
            let columns = own.indices
            guard let documents, length > 0, !columns.isEmpty else { return SequenceShard(own) }
            let ranges = stride(from: 0, to: documents.count, by: length).map { row in
                columns.reduce(documents[row + columns[0]]...documents[row + columns[0]]) { range, column in
                    let id = documents[row + column]
                    return min(range.lowerBound, id)...max(range.upperBound, id)
                }
            }
            return SequenceShard(own, documents: ranges)
        }
    }

    /// What several ranks hold together.
    public static func joined(_ shards: some Collection<SequenceShard>) -> SequenceShard {
        let holders = shards.filter { $0.positions.count > 0 }
        let ranges = holders.compactMap(\.documents)
        let positions = Positions(runs: holders.flatMap(\.positions.runs))
        guard let first = ranges.first, ranges.count == holders.count else { return SequenceShard(positions) }
        let documents = ranges.dropFirst().reduce(first) { joint, next in
            zip(joint, next).map { min($0.lowerBound, $1.lowerBound)...max($0.upperBound, $1.upperBound) }
        }
        return SequenceShard(positions, documents: documents)
    }
}

extension AttentionMask {
    /// True when no key of one shard can be visible to any query of another, judged by the extremes of positions and documents.
    /// False promises nothing.
    public func rulesOut(queries: SequenceShard, keys: SequenceShard) -> Bool {
        if rulesOut(queries: queries.positions, keys: keys.positions) { return true }
        guard documents != nil, let ofQueries = queries.documents, let ofKeys = keys.documents else { return false }
        return zip(ofQueries, ofKeys).allSatisfy { !$0.overlaps($1) }
    }
}
