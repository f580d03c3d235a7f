/// Rows of a data set that can be asked for in any order; the order is the loader's.
///
/// The same row is the same numbers each time, on every rank.
public protocol RowSource: Sendable {
    /// Tokens in a row, T.
    var context: Int { get }
    /// Rows there are, at least 1; rows may overlap.
    var rowCount: Int { get }
    /// Appends row `index`, `0 ..< rowCount`, to the batch; written with `RowWriter`.
    func append(row index: Int, to batch: inout Batch)
}

/// Windows of a long token stream; row i starts at token i * stride.
///
/// A window at the end of the stream is padded. A target that would be the first token of another document is ignored.
public struct TokenWindows: RowSource {
    public let context: Int
    public let rowCount: Int
    let stream: TokenStream
    let range: Range<Int>
    let stride: Int
    let resetPositions: Bool

    /// `range` needs at least two tokens: one to read and one to predict.
    init(_ stream: TokenStream, range: Range<Int>, context: Int, stride: Int, resetPositions: Bool) {
        guard range.count > 1, context > 0, stride > 0 else {
            fatalError("TokenWindows: \(range.count) tokens, context \(context), stride \(stride)")
        }
        self.context = context
        self.stream = stream
        self.range = range
        self.stride = stride
        self.resetPositions = resetPositions
        // With overlapping windows only whole ones; otherwise as many as cover every target.
        rowCount =
            stride < context
            ? max(1, (range.count - 1 - context) / stride + 1) : (range.count - 1 + stride - 1) / stride
    }

    public func append(row index: Int, to batch: inout Batch) {
        guard (0..<rowCount).contains(index) else { fatalError("TokenWindows: row \(index) of \(rowCount)") }
        let start = range.lowerBound + index * stride
        let end = min(start + context, range.upperBound - 1)
        var writer = RowWriter(&batch, resetPositions: resetPositions)
        var tokenIndex = start
        while tokenIndex < end {
            let documentEnd = stream.documentEnd(containing: tokenIndex)
            let pieceEnd = min(end, documentEnd)
            var targets = Array(stream.tokens[tokenIndex + 1..<pieceEnd + 1])
            if pieceEnd == documentEnd { targets[targets.count - 1] = Batch.ignoredTarget }
            writer.appendDocument(tokens: stream.tokens[tokenIndex..<pieceEnd], targets: targets)
            tokenIndex = pieceEnd
        }
        batch = writer.finish()
    }
}

/// Documents one after the other in one array of ids; 4 bytes a token.
struct TokenStream: Sendable {
    private(set) var tokens: [Int32] = []
    private(set) var documentEnds: [Int] = []

    mutating func append(document: [Int32]) {
        guard !document.isEmpty else { return }
        tokens += document
        documentEnds.append(tokens.count)
    }

    func documentEnd(containing index: Int) -> Int {
        var low = 0
        var high = documentEnds.count - 1
        while low < high {
            let middle = (low + high) / 2
            if documentEnds[middle] > index { high = middle } else { low = middle + 1 }
        }
        return documentEnds[low]
    }
}

/// Rows made of whole records: one record a row, or as many as fit.
public struct RecordRows: RowSource {
    public let context: Int
    public var rowCount: Int { rowStarts.count - 1 }
    private let records: [Record]
    /// The order in which records fill rows, and where in it each row starts.
    private let order: [Int]
    private let rowStarts: [Int]
    private let resetPositions: Bool

    /// Every record must fit a row: `record.length <= context`.
    ///
    /// Rows are filled once, first come first served in an order drawn from the seed (file order without one), and a record
    /// that does not fit the rest of a row starts the next.
    init(_ records: [Record], context: Int, packing: Bool, resetPositions: Bool, seed: UInt64?) {
        self.context = context
        self.records = records
        self.resetPositions = resetPositions
        let permutation = Permutation(count: records.count, seed: seed ?? 0, epoch: packingEpoch)
        order = records.indices.map { packing && seed != nil ? permutation[$0] : $0 }
        var starts: [Int] = []
        var used = context
        for (place, record) in order.enumerated() {
            let length = records[record].length
            guard length <= context else { fatalError("RecordRows: a record of \(length) in a row of \(context)") }
            if !packing || used + length > context {
                starts.append(place)
                used = 0
            }
            used += length
        }
        rowStarts = starts + [records.count]
    }

    public func append(row index: Int, to batch: inout Batch) {
        var writer = RowWriter(&batch, resetPositions: resetPositions)
        for place in rowStarts[index]..<rowStarts[index + 1] {
            let record = records[order[place]]
            let learned = record.tokens.indices.dropFirst().map {
                $0 < record.promptCount ? Batch.ignoredTarget : record.tokens[$0]
            }
            writer.appendDocument(tokens: record.tokens.dropLast(), targets: learned)
        }
        batch = writer.finish()
    }
}

/// No epoch of training has this number, so filling rows and visiting them use different random orders.
private let packingEpoch = -1

/// A prompt and what should follow it.
struct Record: Sendable, Hashable {
    var tokens: [Int32]
    /// How many of the tokens are given and not learned.
    var promptCount: Int

    /// The places it takes in a row: the last token is only ever a target.
    var length: Int { tokens.count - 1 }
    var hasTarget: Bool { tokens.count > max(1, promptCount) }
}
