/// What one training or evaluation step reads: `rows` rows of `context` tokens, row-major.
///
/// The four arrays have `rows * context` elements, [B, T].
public struct Batch: Sendable, Hashable {
    /// The target of a position that is not learned: a prompt, padding, or the end of a document.
    public static let ignoredTarget: Int32 = -1
    /// The document id of padding.
    public static let paddingDocument: Int32 = -1

    public internal(set) var rows: Int
    public let context: Int
    /// Token ids; 0 in padding.
    public internal(set) var tokens: [Int32] = []
    /// The next token of the same document, or `ignoredTarget`.
    public internal(set) var targets: [Int32] = []
    /// Which document of the row a token belongs to: 0, 1, 2, ...; `paddingDocument` in padding. Tokens attend to their own
    /// document only.
    public internal(set) var documents: [Int32] = []
    /// The position a token has for rotary angles: from 0 in each document of the row, or from 0 in each row.
    public internal(set) var positions: [Int32] = []

    public init(context: Int) {
        rows = 0
        self.context = context
    }

    /// How many positions are learned; a mean loss divides by it.
    public var targetCount: Int { targets.count { $0 != Self.ignoredTarget } }
}

/// Writes one row of a batch, document by document; `finish` pads the rest and hands the batch back.
///
/// It takes the batch out of the caller's variable while it writes, so that nothing is copied.
public struct RowWriter: ~Copyable {
    private var batch: Batch
    private let resetPositions: Bool
    private var used = 0
    private var documentCount: Int32 = 0

    public init(_ batch: inout Batch, resetPositions: Bool) {
        self.batch = batch
        self.resetPositions = resetPositions
        batch = Batch(context: batch.context)
    }

    /// Appends a document, or the part of one that is in this row; `targets` has one element for each token.
    ///
    /// Traps where the counts differ or the row has no room.
    public mutating func appendDocument(tokens: ArraySlice<Int32>, targets: some Collection<Int32>) {
        guard used + tokens.count <= batch.context, tokens.count == targets.count else {
            fatalError("RowWriter: \(tokens.count) tokens, \(targets.count) targets, \(batch.context - used) places")
        }
        batch.tokens += tokens
        batch.targets += targets
        batch.documents += repeatElement(documentCount, count: tokens.count)
        appendPositions(tokens.count)
        documentCount += 1
    }

    /// The batch with this row, padded to the context.
    public consuming func finish() -> Batch {
        let padding = batch.context - used
        batch.tokens += repeatElement(0, count: padding)
        batch.targets += repeatElement(Batch.ignoredTarget, count: padding)
        batch.documents += repeatElement(Batch.paddingDocument, count: padding)
        appendPositions(padding)
        batch.rows += 1
        return batch
    }

    private mutating func appendPositions(_ count: Int) {
        let first = resetPositions ? 0 : used
        batch.positions += (first..<first + count).map { Int32($0) }
        used += count
    }
}
