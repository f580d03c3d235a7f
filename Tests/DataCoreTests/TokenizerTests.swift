import Foundation
import TensorCore
import Testing

@testable import DataCore

struct ByteTokenizerTests {
    @Test func everyByteIsItsOwnId() {
        let bytes = Array(UInt8.min...UInt8.max)
        let tokenizer = ByteTokenizer()
        #expect(tokenizer.encode(bytes: bytes) == bytes.map(Int32.init))
        #expect(tokenizer.bytes(of: tokenizer.encode(bytes: bytes)) == bytes)
        #expect(tokenizer.vocabularyCount == 256)
    }

    @Test func idsOutsideTheVocabularyDecodeToTheReplacementCharacter() {
        #expect(ByteTokenizer().decode([72, 300, -1, 105]) == "H\u{FFFD}\u{FFFD}i")
    }

    @Test func vocabularyThatIsTooSmallIsRefusedWithBothNumbers() throws {
        try ByteTokenizer().requireFit(modelVocabularyCount: 256)
        let error = try #require(throws: RingZooError.self) {
            try ByteTokenizer().requireFit(modelVocabularyCount: 255)
        }
        #expect(error.code == .config)
        #expect(error.message.contains("256") && error.message.contains("255"))
    }
}

struct StreamingDecoderTests {
    /// Bytes of every kind: whole characters, cut ones, overlong forms, surrogates, lone continuation bytes.
    private static let hardBytes: [UInt8] = [
        0x41, 0x7F, 0x80, 0xBF, 0xC0, 0xC2, 0xC3, 0xA9, 0xE0, 0xA0, 0xE4, 0xBD, 0xED, 0x9F, 0xF0, 0x9F, 0x98, 0x80,
        0xF4, 0x8F,
        0xF5, 0xFF,
    ]

    @Test func joinedPiecesEqualTheWholeText() {
        let tokenizer = ByteTokenizer()
        let random = CounterRandom(seed: 7, purpose: 0)
        for round in 0..<20_000 as Range<UInt64> {
            let count = 1 + random.index(below: 8, round << 8)
            let tokens = (0..<count).map {
                Int32(Self.hardBytes[random.index(below: Self.hardBytes.count, round << 8 + UInt64($0) + 1)])
            }
            var decoder = StreamingDecoder(tokenizer)
            var joined: [UInt8] = []
            for token in tokens { joined += Array(decoder.append(token).utf8) }
            joined += Array(decoder.finish().utf8)
            #expect(joined == Array(tokenizer.decode(tokens).utf8), "\(tokens)")
        }
    }

    @Test func bytesThatNoCharacterCanFollowAreNotHeldBack() {
        for bytes in [[0xE0, 0x80], [0xED, 0xA0], [0xF0, 0x80], [0xF4, 0x90], [0xC0], [0xF5], [0x80]] as [[Int32]] {
            var decoder = StreamingDecoder(ByteTokenizer())
            let text = bytes.map { decoder.append($0) }.joined()
            #expect(text == ByteTokenizer().decode(bytes))
            #expect(decoder.finish().isEmpty, "\(bytes)")
        }
    }

    @Test func characterAppearsWithItsLastByteAndNotBefore() {
        for text in ["é", "漢", "😀"] {
            var decoder = StreamingDecoder(ByteTokenizer())
            let pieces = ByteTokenizer().encode(text).map { decoder.append($0) }
            #expect(pieces.dropLast().joined().isEmpty)
            #expect(pieces.last == text)
            #expect(decoder.finish().isEmpty)
        }
    }
}

struct WordScannerTests {
    @Test func wordsAreThoseOfTheRegularExpression() throws {
        let golden = try Golden.load()
        #expect(golden.words.count > 300)
        for example in golden.words {
            #expect(lengths(Array(example.text.utf8)) == example.lengths, "\(example.text.debugDescription)")
        }
    }

    @Test func wordsCoverEveryByteOfAnyInput() {
        let random = CounterRandom(seed: 3, purpose: 0)
        for round in 0..<2_000 as Range<UInt64> {
            let bytes = (0..<UInt64(20)).map { UInt8(truncatingIfNeeded: random.bits(round << 8 + $0)) }
            let found = lengths(bytes)
            #expect(found.reduce(0, +) == bytes.count)
            #expect(found.allSatisfy { $0 > 0 })
        }
    }

    private func lengths(_ bytes: [UInt8]) -> [Int] {
        bytes.withUnsafeBufferPointer { buffer in
            var scanner = WordScanner(buffer)
            var lengths: [Int] = []
            while let range = scanner.next() { lengths.append(range.count) }
            return lengths
        }
    }
}

/// The golden values of `Fixtures/make-gpt2-golden.py`.
struct Golden: Decodable {
    struct Example: Decodable {
        var text: String
        var ids: [Int32]
    }
    struct Words: Decodable {
        var text: String
        var lengths: [Int]
    }
    struct File: Decodable {
        var count: Int
        var sha256: String
    }

    var examples: [Example]
    var words: [Words]
    var files: [String: File]

    static func load() throws -> Golden {
        let file = URL(fileURLWithPath: #filePath).deletingLastPathComponent()
            .appendingPathComponent("Fixtures/gpt2-golden.json")
        return try JSONDecoder().decode(Golden.self, from: Data(contentsOf: file))
    }
}
