import TensorCore

/// Looks for the texts that end a generation in a stream of pieces, and lets through only what cannot be the beginning of one.
///
/// The text that wins is the first to be complete (of several that end at the same place, the longest). What is let through depends
/// on the joined text alone, not on where it was cut into pieces. Comparison is by UTF-8 bytes.
public struct StopStrings: Sendable {
    private let stops: [(text: String, bytes: [UInt8])]
    private var held: [UInt8] = []

    /// - Throws: `.usage` for an empty text.
    public init(_ texts: [String]) throws {
        if texts.contains("") {
            throw RingZooError(
                .usage, "a stop text is empty, which every text contains", tried: ["at least one character would work"])
        }
        // Longest first: the first that ends at a place is the one that counts.
        stops = texts.map { ($0, Array($0.utf8)) }.sorted { $0.bytes.count > $1.bytes.count }
    }

    /// What may be shown once this piece is here, and the stop text that is complete; nothing after it is ever given out.
    public mutating func append(_ piece: String) -> (text: String, found: String?) {
        let seen = held.count
        held += piece.utf8
        for end in seen..<held.count {
            for stop in stops where held[...end].hasSuffix(stop.bytes) {
                let text = String(decoding: held[..<(end + 1 - stop.bytes.count)], as: UTF8.self)
                held = []
                return (text, stop.text)
            }
        }
        let kept = stops.map { longestBeginning(of: $0.bytes) }.max() ?? 0
        // A stop text begins with the first byte of a character, so no character is cut.
        let text = String(decoding: held[..<(held.count - kept)], as: UTF8.self)
        held.removeFirst(held.count - kept)
        return (text, nil)
    }

    /// What was still held back, once there will be no more.
    public mutating func finish() -> String {
        defer { held = [] }
        return String(decoding: held, as: UTF8.self)
    }

    /// The length of the longest end of what is held that is a beginning of `stop`, but not all of it.
    private func longestBeginning(of stop: [UInt8]) -> Int {
        let longest = min(held.count, stop.count - 1)
        return stride(from: longest, to: 0, by: -1).first { held.hasSuffix(stop.prefix($0)) } ?? 0
    }
}

extension BidirectionalCollection where Element == UInt8 {
    fileprivate func hasSuffix(_ other: some BidirectionalCollection<UInt8>) -> Bool {
        other.count <= count && suffix(other.count).elementsEqual(other)
    }
}
