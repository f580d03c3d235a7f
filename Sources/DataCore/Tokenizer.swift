import TensorCore

/// Turns text into token ids and back; a value that several threads may use at once.
///
/// Ids are `0 ..< vocabularyCount`. `decode(encode(text)) == text` holds for every string, and encoding the bytes of a
/// text gives the same ids as encoding the text. Text is never searched for special tokens: a document that happens to
/// spell one is data.
public protocol Tokenizer: Sendable {
    /// The name under which the tokenizer is registered and shown.
    var name: String { get }

    /// The number of ids, special tokens included; a model's vocabulary must be at least this large.
    var vocabularyCount: Int { get }

    /// The id that starts a document, where the vocabulary has one.
    var beginToken: Int32? { get }

    /// The id that ends a document, where the vocabulary has one; data sets append it to each document.
    var endToken: Int32? { get }

    /// The ids of raw bytes, valid UTF-8 or not; no byte is lost.
    func encode(bytes: UnsafeBufferPointer<UInt8>) -> [Int32]

    /// Appends the bytes one id stands for; half a character is possible.
    ///
    /// An id outside the vocabulary (a model may have more rows than its tokenizer has ids) gives the three bytes of U+FFFD.
    func appendBytes(of token: Int32, to bytes: inout [UInt8])

    /// All that is needed to make the same tokenizer again, for storing inside a checkpoint.
    var form: TokenizerForm { get }
}

extension Tokenizer {
    /// The ids of a text.
    public func encode(_ text: String) -> [Int32] {
        var text = text
        return text.withUTF8 { encode(bytes: $0) }
    }

    /// The ids of raw bytes, valid UTF-8 or not; no byte is lost.
    public func encode(bytes: [UInt8]) -> [Int32] {
        bytes.withUnsafeBufferPointer { encode(bytes: $0) }
    }

    /// The bytes the ids stand for.
    public func bytes(of tokens: [Int32]) -> [UInt8] {
        var bytes: [UInt8] = []
        for token in tokens { appendBytes(of: token, to: &bytes) }
        return bytes
    }

    /// The text the ids stand for; bytes that are no UTF-8 become U+FFFD.
    public func decode(_ tokens: [Int32]) -> String {
        String(decoding: bytes(of: tokens), as: UTF8.self)
    }

    /// Throws when a model with this many rows in its embedding cannot take every id of this tokenizer.
    public func requireFit(modelVocabularyCount: Int) throws {
        guard vocabularyCount > modelVocabularyCount else { return }
        throw RingZooError(
            .config,
            "tokenizer \(name) has \(vocabularyCount) ids, the model's vocabulary has \(modelVocabularyCount)",
            tried: ["a vocabulary of at least \(vocabularyCount) in the model, or another tokenizer, would work"])
    }
}

/// A tokenizer as plain data: what a checkpoint stores so that it can be used without the files it was trained with.
public struct TokenizerForm: Sendable, Hashable, Codable {
    /// Which implementation reads `payload`: `bytes` or `byte-pair`.
    public var kind: String
    /// The implementation's own format; empty where nothing is needed.
    public var payload: [UInt8]

    public init(kind: String, payload: [UInt8]) {
        self.kind = kind
        self.payload = payload
    }

    /// Makes the tokenizer again.
    ///
    /// Throws `.corruptInput` when the kind is not known here or the payload is damaged.
    public func makeTokenizer() throws -> any Tokenizer {
        switch kind {
        case ByteTokenizer.formKind: return ByteTokenizer()
        case BytePairTokenizer.formKind: return try BytePairTokenizer(payload: payload)
        default:
            throw RingZooError(
                .corruptInput, "the stored tokenizer is of kind \"\(kind)\", which is not known here",
                tried: ["known kinds: \(ByteTokenizer.formKind), \(BytePairTokenizer.formKind)"])
        }
    }
}
