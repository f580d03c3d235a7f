/// Decodes ids one at a time for printing, and never gives out half a character.
///
/// The pieces, and then `finish()`, joined are exactly `decode` of all ids. At most three bytes are held back.
public struct StreamingDecoder: Sendable {
    private let tokenizer: any Tokenizer
    private var pending: [UInt8] = []

    public init(_ tokenizer: any Tokenizer) { self.tokenizer = tokenizer }

    /// The text that this id completes; empty while a character is still open.
    public mutating func append(_ token: Int32) -> String {
        tokenizer.appendBytes(of: token, to: &pending)
        let complete = pending.count - openSuffixCount(pending)
        let text = String(decoding: pending[..<complete], as: UTF8.self)
        pending.removeFirst(complete)
        return text
    }

    /// What is still held back, as U+FFFD; empty unless the ids ended inside a character.
    public mutating func finish() -> String {
        defer { pending.removeAll() }
        return String(decoding: pending, as: UTF8.self)
    }
}

/// The length of the longest suffix that is the beginning of a valid character but not all of it: 0 to 3.
private func openSuffixCount(_ bytes: [UInt8]) -> Int {
    for count in 1...3 where count <= bytes.count {
        let start = bytes.count - count
        if bytes[start] & 0xC0 == 0x80 { continue }
        let expected = utf8Length(lead: bytes[start])
        // A second byte outside the lead's range (overlong, surrogate, beyond U+10FFFF) can never become valid.
        let canComplete = count == 1 || utf8SecondByteRange(lead: bytes[start]).contains(bytes[start + 1])
        return expected > count && canComplete ? count : 0
    }
    return 0
}
