import Foundation
import TensorCore

extension BytePairTokenizer {
    /// Reads the vocabulary (a JSON object from token to id, bytes written in GPT-2's printable alphabet) and the merges
    /// (one `left right` a line, first merged first) as GPT-2 and Hugging Face publish them.
    ///
    /// Tokens that are neither a byte nor the result of a merge are special.
    /// Throws `.missingInput` for a file that is not there, `.corruptInput` with the line for one that makes no sense.
    public init(vocabulary vocabularyPath: String, merges mergesPath: String, name: String = "gpt2") throws {
        let vocabularyFile = try readFile(vocabularyPath)
        let ids: [String: Int]
        do {
            ids = try JSONDecoder().decode([String: Int].self, from: Data(vocabularyFile))
        } catch {
            throw RingZooError(
                .corruptInput, "\(vocabularyPath): not a JSON object from token to id", underlying: error)
        }
        var texts: [String?] = Array(repeating: nil, count: ids.count)
        for (text, id) in ids {
            guard texts.indices.contains(id), texts[id] == nil else {
                throw RingZooError(
                    .corruptInput,
                    "\(vocabularyPath): the \(ids.count) ids must be 0 to \(ids.count - 1), each once; \(id) is not")
            }
            texts[id] = text
        }
        let pairs = try mergePairs(path: mergesPath, ids: ids)
        var isOrdinary = texts.map { $0!.unicodeScalars.count == 1 && printedBytes($0!) != nil }
        for pair in pairs {
            if let result = ids[texts[Int(pair.left)]! + texts[Int(pair.right)]!] { isOrdinary[result] = true }
        }
        var vocabulary = BytePairVocabulary(tokens: [], specials: [], rule: .merges(pairs))
        for (id, text) in texts.enumerated() {
            if isOrdinary[id], let bytes = printedBytes(text!) {
                vocabulary.tokens.append(bytes)
            } else {
                vocabulary.tokens.append(Array(text!.utf8))
                vocabulary.specials.insert(Int32(id))
            }
        }
        try self.init(name: name, vocabulary: vocabulary)
    }

    /// Reads a rank file (tiktoken's format: base64 of a token, a space, its id, one a line) and adds special tokens after it.
    ///
    /// Throws `.missingInput` for a file that is not there, `.corruptInput` with the line for one that makes no sense.
    public init(
        ranks path: String, specialTokens: [String] = [BytePairTokenizer.endOfText], name: String = "gpt2"
    ) throws {
        var tokens: [Int: [UInt8]] = [:]
        for (number, line) in lines(of: try readFile(path)) where !line.isEmpty {
            let fields = line.split(separator: UInt8(ascii: " "))
            guard fields.count == 2, let bytes = Data(base64Encoded: Data(fields[0])), !bytes.isEmpty,
                let id = Int(String(decoding: fields[1], as: UTF8.self)), id >= 0
            else {
                throw RingZooError(.corruptInput, "\(path):\(number): not the base64 of a token, a space and its rank")
            }
            guard tokens.updateValue(Array(bytes), forKey: id) == nil else {
                throw RingZooError(.corruptInput, "\(path):\(number): rank \(id) is there twice")
            }
        }
        var vocabulary = BytePairVocabulary(tokens: [], specials: [], rule: .ranks)
        for id in 0..<tokens.count {
            guard let bytes = tokens[id] else {
                throw RingZooError(
                    .corruptInput,
                    "\(path): the \(tokens.count) ranks must be 0 to \(tokens.count - 1); \(id) is missing")
            }
            vocabulary.tokens.append(bytes)
        }
        for text in specialTokens {
            vocabulary.specials.insert(Int32(vocabulary.tokens.count))
            vocabulary.tokens.append(Array(text.utf8))
        }
        try self.init(name: name, vocabulary: vocabulary)
    }

    /// Reads GPT-2's tokenizer from a rank file (`*.tiktoken`), or from a folder that holds a vocabulary and merges under
    /// one of the names they are published with.
    public static func load(path: String, name: String = "gpt2") throws -> BytePairTokenizer {
        var isFolder: ObjCBool = false
        guard FileManager.default.fileExists(atPath: path, isDirectory: &isFolder) else { throw missing(path) }
        guard isFolder.boolValue else { return try BytePairTokenizer(ranks: path, name: name) }
        let pairs = publishedNames.map { (path + "/" + $0.vocabulary, path + "/" + $0.merges) }
        let found = pairs.first {
            FileManager.default.fileExists(atPath: $0.0) && FileManager.default.fileExists(atPath: $0.1)
        }
        guard let found else {
            throw RingZooError(
                .missingInput, "\(path): no vocabulary and merges of a byte-pair tokenizer in this folder",
                tried: publishedNames.map { "looked for \($0.vocabulary) with \($0.merges)" }
                    + ["the path of a .tiktoken rank file would work too"])
        }
        return try BytePairTokenizer(vocabulary: found.0, merges: found.1, name: name)
    }

    private static let publishedNames = [
        (vocabulary: "vocab.json", merges: "merges.txt"), (vocabulary: "encoder.json", merges: "vocab.bpe"),
        (vocabulary: "gpt2-encoder.json", merges: "gpt2-vocab.bpe"),
    ]
}

private func mergePairs(path: String, ids: [String: Int]) throws -> [BytePairVocabulary.Pair] {
    var pairs: [BytePairVocabulary.Pair] = []
    for (number, line) in lines(of: try readFile(path)) where !line.isEmpty {
        let text = String(decoding: line, as: UTF8.self)
        if number == 1, text.hasPrefix("#version") { continue }
        let fields = text.split(separator: " ").map(String.init)
        guard fields.count == 2, let left = ids[fields[0]], let right = ids[fields[1]] else {
            throw RingZooError(.corruptInput, "\(path):\(number): \"\(text)\" is not two tokens of the vocabulary")
        }
        pairs.append(BytePairVocabulary.Pair(left: Int32(left), right: Int32(right)))
    }
    return pairs
}

/// The bytes of a token written in GPT-2's printable alphabet; nil where a character is not in it.
private func printedBytes(_ text: String) -> [UInt8]? {
    var bytes: [UInt8] = []
    for scalar in text.unicodeScalars {
        guard let byte = byteOfPrintable[scalar] else { return nil }
        bytes.append(byte)
    }
    return bytes
}

/// GPT-2 writes each byte as one printable character: the printable ones of Latin-1 as themselves, the others as the
/// characters from U+0100 on, in order.
private let byteOfPrintable: [Unicode.Scalar: UInt8] = {
    var bytes: [Unicode.Scalar: UInt8] = [:]
    var substitute: UInt32 = 0x100
    for byte in UInt8.min...UInt8.max {
        switch byte {
        case 0x21...0x7E, 0xA1...0xAC, 0xAE...0xFF: bytes[Unicode.Scalar(byte)] = byte
        default:
            bytes[Unicode.Scalar(substitute)!] = byte
            substitute += 1
        }
    }
    return bytes
}()
