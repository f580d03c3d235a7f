import Foundation
import TensorCore

// The payload is lines of ASCII, so that it can be read in any HDF5 tool:
//
//     byte-pair 1
//     name gpt2
//     tokens 50257            then the base64 of each, in the order of the ids
//     specials 1              then the ids
//     merges 50000            then "left right" each; or the one line "ranks"
extension BytePairTokenizer {
    private static let firstLine = "byte-pair 1"

    public var form: TokenizerForm {
        var lines = [Self.firstLine, "name \(name)", "tokens \(vocabulary.tokens.count)"]
        lines += vocabulary.tokens.map { Data($0).base64EncodedString() }
        lines.append("specials \(vocabulary.specials.count)")
        lines += vocabulary.specials.sorted().map { String($0) }
        switch vocabulary.rule {
        case .merges(let pairs):
            lines.append("merges \(pairs.count)")
            lines += pairs.map { "\($0.left) \($0.right)" }
        case .ranks: lines.append("ranks")
        }
        return TokenizerForm(kind: Self.formKind, payload: Array((lines.joined(separator: "\n") + "\n").utf8))
    }

    init(payload: [UInt8]) throws {
        var reader = FormReader(payload)
        guard try reader.line() == Self.firstLine else { throw reader.damaged("\"\(Self.firstLine)\"") }
        let name = try reader.value(after: "name")
        var vocabulary = BytePairVocabulary(tokens: [], specials: [], rule: .ranks)
        for _ in 0..<(try reader.count(after: "tokens")) {
            guard let bytes = Data(base64Encoded: try reader.line()) else { throw reader.damaged("base64") }
            vocabulary.tokens.append(Array(bytes))
        }
        for _ in 0..<(try reader.count(after: "specials")) {
            vocabulary.specials.insert(try reader.id(try reader.line(), below: vocabulary.tokens.count))
        }
        let rule = try reader.line()
        if rule != "ranks" {
            var pairs: [BytePairVocabulary.Pair] = []
            for _ in 0..<(try reader.count("merges", in: rule)) {
                let fields = try reader.line().split(separator: " ").map(String.init)
                guard fields.count == 2 else { throw reader.damaged("two ids") }
                let left = try reader.id(fields[0], below: vocabulary.tokens.count)
                let right = try reader.id(fields[1], below: vocabulary.tokens.count)
                pairs.append(BytePairVocabulary.Pair(left: left, right: right))
            }
            vocabulary.rule = .merges(pairs)
        }
        guard reader.isAtEnd else { throw reader.damaged("the end") }
        try self.init(name: name, vocabulary: vocabulary)
    }
}

/// Reads the payload line by line and says where it stopped making sense.
private struct FormReader {
    private let lines: [Substring]
    private var index = 0

    init(_ payload: [UInt8]) {
        lines = String(decoding: payload, as: UTF8.self).split(separator: "\n", omittingEmptySubsequences: false)
    }

    var isAtEnd: Bool { lines[index...].allSatisfy(\.isEmpty) }

    func damaged(_ expected: String) -> RingZooError {
        RingZooError(.corruptInput, "the stored tokenizer is damaged: line \(index) should be \(expected)")
    }

    mutating func line() throws -> String {
        index += 1
        guard index <= lines.count else { throw damaged("there, but the data end before it") }
        return String(lines[index - 1])
    }

    mutating func value(after key: String) throws -> String { try value(key, in: try line()) }

    mutating func count(after key: String) throws -> Int { try count(key, in: try line()) }

    /// A count of lines that follow; never more than there are, so that a damaged count cannot ask for memory.
    func count(_ key: String, in line: String) throws -> Int {
        guard let count = Int(try value(key, in: line)), (0...lines.count).contains(count) else {
            throw damaged("\"\(key)\" and a count of the lines that follow")
        }
        return count
    }

    func id(_ text: String, below bound: Int) throws -> Int32 {
        guard let id = Int32(text), id >= 0, id < bound else { throw damaged("an id below \(bound)") }
        return id
    }

    private func value(_ key: String, in line: String) throws -> String {
        guard line.hasPrefix(key + " ") else { throw damaged("\"\(key)\" and its value") }
        return String(line.dropFirst(key.count + 1))
    }
}
