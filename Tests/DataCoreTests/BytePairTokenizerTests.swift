import Foundation
import TensorCore
import Testing

@testable import DataCore

/// The folder with the real text and the published tokenizer; these tests are skipped without it.
private let dataFolder = ProcessInfo.processInfo.environment["RINGZOO_DATA"]
private let skipReason: Comment = "RINGZOO_DATA names no folder with text/ and tokenizer/"

@Suite(.enabled(if: dataFolder != nil, skipReason))
struct PublishedTokenizerTests {
    let byMerges: BytePairTokenizer
    let byRanks: BytePairTokenizer

    init() throws {
        let folder = try #require(dataFolder) + "/tokenizer"
        byMerges = try BytePairTokenizer.load(path: folder)
        byRanks = try BytePairTokenizer.load(path: folder + "/gpt2.tiktoken")
    }

    @Test func idsOfAllRealTextEqualTheReference() throws {
        let files = try Golden.load().files
        #expect(files.count == 10)
        for (name, golden) in files.sorted(by: { $0.key < $1.key }) {
            let bytes = try readFile(try #require(dataFolder) + "/text/" + name)
            let ids = byMerges.encode(bytes: bytes)
            #expect(ids.count == golden.count, "\(name)")
            #expect(sha256(ids) == golden.sha256, "\(name)")
            #expect(byRanks.encode(bytes: bytes) == ids, "\(name)")
            #expect(byMerges.bytes(of: ids) == bytes, "\(name)")
        }
    }

    @Test func idsOfHardStringsEqualTheReference() throws {
        for example in try Golden.load().examples {
            #expect(byMerges.encode(example.text) == example.ids, "\(example.text.debugDescription)")
            #expect(byRanks.encode(example.text) == example.ids, "\(example.text.debugDescription)")
            #expect(byMerges.decode(example.ids) == example.text)
        }
    }

    @Test func bothLoadersGiveTheSameVocabulary() {
        #expect(byMerges.vocabularyCount == 50_257)
        #expect(byMerges.vocabulary.tokens == byRanks.vocabulary.tokens)
        #expect(byMerges.vocabulary.specials == byRanks.vocabulary.specials)
        #expect(byMerges.endToken == 50_256)
        #expect(byRanks.endToken == 50_256)
    }

    @Test func storedFormMakesTheSameTokenizer() throws {
        for tokenizer in [byMerges, byRanks] {
            let again = try #require(try tokenizer.form.makeTokenizer() as? BytePairTokenizer)
            #expect(again.vocabulary == tokenizer.vocabulary)
            #expect(again.endToken == tokenizer.endToken)
            #expect(again.encode("It's 2024, isn't it? 漢字") == tokenizer.encode("It's 2024, isn't it? 漢字"))
        }
    }
}

struct BytePairTokenizerTests {
    /// Ids 0 to 255 are the bytes in GPT-2's alphabet's order of values, then the merges' results, then one special token.
    private static func alphabet() -> [String] {
        var substitute: UInt32 = 0x100
        return (0...255 as ClosedRange<UInt32>).map { byte in
            if (0x21...0x7E).contains(byte) || (0xA1...0xAC).contains(byte) || byte >= 0xAE {
                return String(Unicode.Scalar(byte)!)
            }
            defer { substitute += 1 }
            return String(Unicode.Scalar(substitute)!)
        }
    }

    private static let merges = [
        ("a", "b"), ("b", "c"), ("ab", "c"), ("Ġ", "a"), ("a", "a"), ("aa", "aa"), ("c", "a"), ("Ġ", "abc"), ("b", "b"),
    ]

    private static func files(in folder: TemporaryFolder) throws -> (vocabulary: String, merges: String) {
        let tokens = alphabet() + merges.map { $0.0 + $0.1 } + [BytePairTokenizer.endOfText]
        let ids = Dictionary(uniqueKeysWithValues: tokens.enumerated().map { ($1, $0) })
        let vocabulary = String(decoding: try JSONEncoder().encode(ids), as: UTF8.self)
        let lines = "#version: 0.2\n" + merges.map { "\($0.0) \($0.1)\n" }.joined()
        return (try folder.write(vocabulary, to: "vocab.json"), try folder.write(lines, to: "merges.txt"))
    }

    @Test func heapMergesAsTheDefinitionSays() throws {
        let random = CounterRandom(seed: 11, purpose: 0)
        for round in 0..<30 as Range<UInt64> {
            let merges = Self.randomMerges(random, first: round << 32)
            let bytes = (UInt8.min...UInt8.max).map { [$0] }
            var vocabulary = BytePairVocabulary(tokens: bytes, specials: [], rule: .ranks)
            vocabulary.tokens += merges.map { Array(($0.0 + $0.1).utf8) }
            let ids = try vocabulary.idsByBytes()
            let pairs = merges.map {
                BytePairVocabulary.Pair(left: ids[Array($0.0.utf8)[...]]!, right: ids[Array($0.1.utf8)[...]]!)
            }
            vocabulary.rule = .merges(pairs)
            let tokenizer = try BytePairTokenizer(name: "random", vocabulary: vocabulary)
            for attempt in 0..<200 as Range<UInt64> {
                let counter = round << 32 + (attempt + 1) << 16
                let count = 1 + random.index(below: 30, counter)
                let word = (0..<count).map { Self.letters[random.index(below: 3, counter + UInt64($0) + 1)] }
                let parts = tokenizer.encode(word.joined()).map { tokenizer.decode([$0]) }
                #expect(parts == Self.mergedByDefinition(word, merges), "\(word.joined()) by \(merges)")
            }
        }
    }

    private static let letters = ["a", "b", "c"]

    /// 25 merges of letters and results of earlier merges.
    private static func randomMerges(_ random: CounterRandom, first: UInt64) -> [(String, String)] {
        var parts = letters
        var merges: [(String, String)] = []
        var counter = first
        while merges.count < 25 {
            let left = parts[random.index(below: parts.count, counter)]
            let right = parts[random.index(below: parts.count, counter + 1)]
            counter += 2
            guard !parts.contains(left + right), (left + right).count <= 6 else { continue }
            parts.append(left + right)
            merges.append((left, right))
        }
        return merges
    }

    /// The lowest rank first, the leftmost first among equals, one at a time.
    private static func mergedByDefinition(_ word: [String], _ merges: [(String, String)]) -> [String] {
        var parts = word
        while true {
            let ranked = zip(parts, parts.dropFirst()).enumerated().compactMap { at, pair in
                merges.firstIndex { $0.0 == pair.0 && $0.1 == pair.1 }.map { (rank: $0, at: at) }
            }
            guard let best = ranked.min(by: { ($0.rank, $0.at) < ($1.rank, $1.at) }) else { return parts }
            parts[best.at...best.at + 1] = [parts[best.at] + parts[best.at + 1]]
        }
    }

    @Test func folderAndRankFileAgree() throws {
        let folder = try TemporaryFolder()
        _ = try Self.files(in: folder)
        let byMerges = try BytePairTokenizer.load(path: folder.path)
        let lines = byMerges.vocabulary.tokens.dropLast().enumerated().map {
            "\(Data($1).base64EncodedString()) \($0)\n"
        }
        let byRanks = try BytePairTokenizer.load(path: try folder.write(lines.joined(), to: "small.tiktoken"))
        #expect(byRanks.vocabulary.tokens == byMerges.vocabulary.tokens)
        for text in ["abcabc aaaa", " abc abca\n\tbb", "é漢😀 <|endoftext|>"] {
            #expect(byRanks.encode(text) == byMerges.encode(text))
            #expect(byMerges.decode(byMerges.encode(text)) == text)
        }
        #expect(byMerges.endToken == 265)
        #expect(!byMerges.encode("<|endoftext|>").contains(265))
        #expect(byMerges.decode([265]) == "<|endoftext|>")
    }

    @Test func invalidBytesSurvive() throws {
        let folder = try TemporaryFolder()
        _ = try Self.files(in: folder)
        let tokenizer = try BytePairTokenizer.load(path: folder.path)
        let bytes: [UInt8] = [0x61, 0xFF, 0x62, 0xE4, 0xBD, 0x20, 0xC3, 0x28, 0xF0, 0x9F]
        #expect(tokenizer.bytes(of: tokenizer.encode(bytes: bytes)) == bytes)
    }

    @Test func storedFormMakesTheSameTokenizer() throws {
        let folder = try TemporaryFolder()
        _ = try Self.files(in: folder)
        let tokenizer = try BytePairTokenizer.load(path: folder.path, name: "small")
        let again = try #require(try tokenizer.form.makeTokenizer() as? BytePairTokenizer)
        #expect(again.name == "small")
        #expect(again.vocabulary == tokenizer.vocabulary)
        #expect(try ByteTokenizer().form.makeTokenizer().vocabularyCount == 256)
    }

    @Test func damagedFormIsRefusedAndNeverTraps() throws {
        let folder = try TemporaryFolder()
        _ = try Self.files(in: folder)
        let form = try BytePairTokenizer.load(path: folder.path).form
        for count in stride(from: 0, to: form.payload.count - 1, by: 7) {
            let cut = TokenizerForm(kind: form.kind, payload: Array(form.payload[..<count]))
            let error = #expect(throws: RingZooError.self) { try cut.makeTokenizer() }
            #expect(error?.code == .corruptInput)
        }
        let unknown = #expect(throws: RingZooError.self) {
            try TokenizerForm(kind: "unigram", payload: []).makeTokenizer()
        }
        #expect(unknown?.description.contains("byte-pair") == true)
    }

    @Test func errorsNameFileAndLine() throws {
        let folder = try TemporaryFolder()
        let files = try Self.files(in: folder)
        func message(_ body: () throws -> BytePairTokenizer) -> String {
            do {
                _ = try body()
                return "no error"
            } catch { return "\(error)" }
        }
        let badMerges = try folder.write("#version: 0.2\na b\na nothing\n", to: "bad.txt")
        #expect(
            message { try BytePairTokenizer(vocabulary: files.vocabulary, merges: badMerges) }.contains("bad.txt:3"))
        let lostResult = try folder.write("a b\nz z\n", to: "lost.txt")
        #expect(
            message { try BytePairTokenizer(vocabulary: files.vocabulary, merges: lostResult) }.contains(
                "merge 2 gives \"zz\""))
        let badRanks = try folder.write("IQ== 0\nIg== one\n", to: "bad.tiktoken")
        #expect(message { try BytePairTokenizer(ranks: badRanks) }.contains("bad.tiktoken:2"))
        let fewRanks = try folder.write("IQ== 0\nIg== 1\n", to: "few.tiktoken")
        #expect(message { try BytePairTokenizer(ranks: fewRanks) }.contains("no id for byte 0"))
        let gap = try folder.write("IQ== 0\nIg== 2\n", to: "gap.tiktoken")
        #expect(message { try BytePairTokenizer(ranks: gap) }.contains("1 is missing"))
        let noJSON = try folder.write("[1]", to: "list.json")
        #expect(message { try BytePairTokenizer(vocabulary: noJSON, merges: files.merges) }.contains("list.json"))
        #expect(message { try BytePairTokenizer.load(path: folder.path + "/absent") }.contains("absent: no such file"))
        let empty = try TemporaryFolder()
        #expect(message { try BytePairTokenizer.load(path: empty.path) }.contains("vocab.json"))
    }
}

struct SHA256Tests {
    @Test func digestOfThePublishedExample() {
        #expect(
            sha256(bytes: Array("abc".utf8)) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad")
    }
}
