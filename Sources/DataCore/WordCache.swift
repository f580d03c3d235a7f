/// The ids of words already merged, for one call of `encode`: natural text repeats its words.
///
/// A local value and not a shared one, so that a tokenizer stays an immutable value without a lock.
struct WordCache {
    private struct Entry {
        var hash: UInt64
        var keyStart: Int
        var keyCount: Int32
        var tokenCount: Int32
        var tokenStart: Int
    }

    /// Longer words are rare and cost more to compare than they save.
    static let longestWord = 48
    /// Bounds the cache to some tens of megabytes on text without end.
    private static let mostEntries = 1 << 19

    private var slots: [Int32] = Array(repeating: -1, count: 256)
    private var entries: [Entry] = []
    private var keys: [UInt8] = []
    private var tokens: [Int32] = []

    /// Appends the ids of a word seen before; false where it was not.
    @inline(__always)
    func append(_ word: UnsafeBufferPointer<UInt8>, hash: UInt64, to output: inout [Int32]) -> Bool {
        var slot = Int(truncatingIfNeeded: hash) & (slots.count - 1)
        while slots[slot] >= 0 {
            let entry = entries[Int(slots[slot])]
            if entry.hash == hash, Int(entry.keyCount) == word.count, isKey(word, at: entry.keyStart) {
                output.append(contentsOf: tokens[entry.tokenStart..<entry.tokenStart + Int(entry.tokenCount)])
                return true
            }
            slot = (slot + 1) & (slots.count - 1)
        }
        return false
    }

    mutating func insert(_ word: UnsafeBufferPointer<UInt8>, hash: UInt64, tokens wordTokens: ArraySlice<Int32>) {
        guard entries.count < Self.mostEntries else { return }
        if 2 * entries.count >= slots.count { grow() }
        place(entry: entries.count, hash: hash)
        entries.append(
            Entry(
                hash: hash, keyStart: keys.count, keyCount: Int32(word.count), tokenCount: Int32(wordTokens.count),
                tokenStart: tokens.count))
        keys.append(contentsOf: word)
        tokens.append(contentsOf: wordTokens)
    }

    static func hash(_ word: UnsafeBufferPointer<UInt8>) -> UInt64 {
        // FNV-1a, then a finalizer, because only the low bits choose the slot.
        var hash: UInt64 = 0xcbf2_9ce4_8422_2325
        for byte in word { hash = (hash ^ UInt64(byte)) &* 0x100_0000_01b3 }
        return mixed(hash)
    }

    @inline(__always)
    private func isKey(_ word: UnsafeBufferPointer<UInt8>, at start: Int) -> Bool {
        for offset in 0..<word.count where keys[start + offset] != word[offset] { return false }
        return true
    }

    private mutating func grow() {
        slots = Array(repeating: -1, count: 2 * slots.count)
        for index in entries.indices { place(entry: index, hash: entries[index].hash) }
    }

    private mutating func place(entry: Int, hash: UInt64) {
        var slot = Int(truncatingIfNeeded: hash) & (slots.count - 1)
        while slots[slot] >= 0 { slot = (slot + 1) & (slots.count - 1) }
        slots[slot] = Int32(entry)
    }
}
