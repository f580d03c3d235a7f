import TensorCore

/// Byte-level byte-pair encoding with GPT-2's word rule (Sennrich et al. 2016; Radford et al. 2019).
///
/// Text is cut into words (`WordScanner`); the bytes of a word are the first ids, and the neighbouring pair of the lowest
/// rank, leftmost first, is merged until no pair is in the table. Every byte has an id, so every input can be encoded.
/// Costs O(n log n) for a word of n bytes. Memory: about 10 MB for GPT-2's 50,257 ids.
///
/// Make one with `init(vocabulary:merges:)`, `init(ranks:)` or `load(path:)`.
public struct BytePairTokenizer: Tokenizer {
    static let formKind = "byte-pair"

    /// The text of GPT-2's one special token, which both begins and ends documents.
    public static let endOfText = "<|endoftext|>"

    public let name: String
    public let beginToken: Int32?
    public let endToken: Int32?
    let vocabulary: BytePairVocabulary
    private let merges: MergeTable
    /// The id of each single byte.
    private let byteTokens: [Int32]
    /// Whole words that are ids: tried before merging, as rank files ask for (an id need not be reachable by merges).
    private let wholeWords: [ArraySlice<UInt8>: Int32]

    init(name: String, vocabulary: BytePairVocabulary) throws {
        self.name = name
        self.vocabulary = vocabulary
        let ids = try vocabulary.idsByBytes()
        byteTokens = try (UInt8.min...UInt8.max).map { byte in
            guard let id = ids[[byte]] else {
                throw RingZooError(.corruptInput, "tokenizer \(name): the vocabulary has no id for byte \(byte)")
            }
            return id
        }
        switch vocabulary.rule {
        case .merges(let pairs):
            merges = try vocabulary.table(of: pairs, ids: ids)
            wholeWords = [:]
        case .ranks:
            merges = vocabulary.tableOfAllSplits(ids: ids)
            wholeWords = ids
        }
        let endOfText = vocabulary.specialToken(Self.endOfText)
        beginToken = endOfText
        endToken = endOfText
    }

    public var vocabularyCount: Int { vocabulary.tokens.count }

    public func encode(bytes: UnsafeBufferPointer<UInt8>) -> [Int32] {
        var output: [Int32] = []
        output.reserveCapacity(bytes.count / 3)
        var scanner = WordScanner(bytes)
        var cache = WordCache()
        var merger = WordMerger()
        while let range = scanner.next() {
            let word = UnsafeBufferPointer(rebasing: bytes[range])
            if word.count == 1 {
                output.append(byteTokens[Int(word[0])])
                continue
            }
            let isCached = word.count <= WordCache.longestWord
            let hash = isCached ? WordCache.hash(word) : 0
            if isCached, cache.append(word, hash: hash, to: &output) { continue }
            let start = output.count
            if !wholeWords.isEmpty, let id = wholeWords[ArraySlice(word)] {
                output.append(id)
            } else {
                merger.append(word, byteTokens: byteTokens, merges: merges, to: &output)
            }
            if isCached { cache.insert(word, hash: hash, tokens: output[start...]) }
        }
        return output
    }

    public func appendBytes(of token: Int32, to bytes: inout [UInt8]) {
        guard vocabulary.tokens.indices.contains(Int(token)) else {
            bytes.append(contentsOf: replacementCharacter)
            return
        }
        bytes.append(contentsOf: vocabulary.tokens[Int(token)])
    }
}
