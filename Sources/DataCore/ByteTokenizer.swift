/// One id a byte: no vocabulary file, nothing unknown, 256 ids and no special tokens.
public struct ByteTokenizer: Tokenizer {
    static let formKind = "bytes"

    public init() {}

    public var name: String { "bytes" }
    public var vocabularyCount: Int { 256 }
    public var beginToken: Int32? { nil }
    public var endToken: Int32? { nil }
    public var form: TokenizerForm { TokenizerForm(kind: Self.formKind, payload: []) }

    public func encode(bytes: UnsafeBufferPointer<UInt8>) -> [Int32] { bytes.map(Int32.init) }

    public func appendBytes(of token: Int32, to bytes: inout [UInt8]) {
        if let byte = UInt8(exactly: token) {
            bytes.append(byte)
        } else {
            bytes.append(contentsOf: replacementCharacter)
        }
    }
}

/// U+FFFD in UTF-8: what stands for an id that no tokenizer gave out.
let replacementCharacter: [UInt8] = [0xEF, 0xBF, 0xBD]
