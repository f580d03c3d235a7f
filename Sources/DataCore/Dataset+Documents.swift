extension Dataset {
    /// Rows that are looked at, evenly over the training part.
    private static let sampledRows = 256

    /// Tokens of a document, if all were equally long and showed one another as many pairs of tokens as those of the training rows do;
    /// nil where each row is one document.
    ///
    /// A token of a document of l tokens sees l of them where nothing else is masked, so this is the mean of l over tokens: sum l^2 / sum l,
    /// from up to 256 rows. What pads a row counts as a document, which attention takes it for.
    public var documentLength: Int? {
        var batch = Batch(context: options.context)
        let count = training.rowCount
        let step = max(1, count / Self.sampledRows)
        for row in stride(from: 0, to: count, by: step).prefix(Self.sampledRows) {
            training.append(row: row, to: &batch)
        }
        let lengths = Self.documentLengths(of: batch)
        if lengths.count == batch.rows { return nil }
        return max(1, lengths.reduce(0) { $0 + $1 * $1 } / batch.documents.count)
    }

    /// The lengths of the documents in all rows.
    private static func documentLengths(of batch: Batch) -> [Int] {
        var lengths: [Int] = []
        for (index, document) in batch.documents.enumerated() {
            if index % batch.context == 0 || document != batch.documents[index - 1] {
                lengths.append(1)
            } else {
                lengths[lengths.count - 1] += 1
            }
        }
        return lengths
    }
}
