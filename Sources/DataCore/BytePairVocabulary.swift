import TensorCore

/// The ids and the merge rule of a byte-pair tokenizer, as its files state them.
struct BytePairVocabulary: Sendable, Hashable {
    enum Rule: Sendable, Hashable {
        /// Exactly these pairs of ids merge, the first pair first; the result is the id of the joined bytes.
        case merges([Pair])
        /// Any two ids merge whose joined bytes are an id; the lower that id, the earlier.
        case ranks
    }

    struct Pair: Sendable, Hashable {
        var left: Int32
        var right: Int32
    }

    /// The bytes of every id, special tokens included (the bytes of their text).
    var tokens: [[UInt8]]
    /// The ids that text never turns into.
    var specials: Set<Int32>
    var rule: Rule

    func specialToken(_ text: String) -> Int32? {
        specials.sorted().first { tokens[Int($0)] == Array(text.utf8) }
    }

    /// The id of each byte sequence, special tokens left out.
    func idsByBytes() throws -> [ArraySlice<UInt8>: Int32] {
        var ids: [ArraySlice<UInt8>: Int32] = [:]
        ids.reserveCapacity(tokens.count)
        for (index, bytes) in tokens.enumerated() where !specials.contains(Int32(index)) {
            guard !bytes.isEmpty else {
                throw RingZooError(.corruptInput, "the tokenizer's id \(index) stands for no bytes")
            }
            if let other = ids.updateValue(Int32(index), forKey: bytes[...]) {
                throw RingZooError(.corruptInput, "the tokenizer's ids \(other) and \(index) stand for the same bytes")
            }
        }
        return ids
    }

    func table(of pairs: [Pair], ids: [ArraySlice<UInt8>: Int32]) throws -> MergeTable {
        var table = MergeTable(capacity: pairs.count)
        for (rank, pair) in pairs.enumerated() {
            let joined = tokens[Int(pair.left)] + tokens[Int(pair.right)]
            guard let result = ids[joined[...]] else {
                throw RingZooError(
                    .corruptInput,
                    "the tokenizer's merge \(rank + 1) gives \"\(String(decoding: joined, as: UTF8.self))\", "
                        + "which is not in the vocabulary")
            }
            guard table.insert(pair.left, pair.right, MergeTable.Merge(rank: Int32(rank), result: result)) else {
                throw RingZooError(.corruptInput, "the tokenizer's merge \(rank + 1) is there twice")
            }
        }
        return table
    }

    func tableOfAllSplits(ids: [ArraySlice<UInt8>: Int32]) -> MergeTable {
        var splits: [(pair: Pair, result: Int32)] = []
        for (index, bytes) in tokens.enumerated() where bytes.count > 1 && !specials.contains(Int32(index)) {
            for cut in 1..<bytes.count {
                if let left = ids[bytes[..<cut]], let right = ids[bytes[cut...]] {
                    splits.append((Pair(left: left, right: right), Int32(index)))
                }
            }
        }
        var table = MergeTable(capacity: splits.count)
        for split in splits {
            // A pair of ids has one joined byte sequence and so one id: nothing can be there twice.
            _ = table.insert(
                split.pair.left, split.pair.right, MergeTable.Merge(rank: split.result, result: split.result))
        }
        return table
    }
}
