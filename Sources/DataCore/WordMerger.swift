/// Merges the bytes of one word; keeps its buffers from word to word.
///
/// The ids are a linked list over the positions of the word; a binary heap holds (rank, position of the left id). An entry
/// whose rank is no longer that of its position is out of date and skipped.
struct WordMerger {
    private var ids: [Int32] = []
    private var ranks: [Int32] = []
    private var results: [Int32] = []
    private var next: [Int32] = []
    private var previous: [Int32] = []
    private var heap = MinimumHeap()

    private static let noPair: Int32 = -1

    mutating func append(
        _ word: UnsafeBufferPointer<UInt8>, byteTokens: [Int32], merges: MergeTable, to output: inout [Int32]
    ) {
        let count = word.count
        start(count)
        for position in 0..<count { ids[position] = byteTokens[Int(word[position])] }
        for position in 0..<count { rate(position, merges) }
        while let entry = heap.popMinimum() {
            let position = Int(entry & 0xFFFF_FFFF)
            guard ranks[position] == Int32(entry >> 32) else { continue }
            let removed = Int(next[position])
            ids[position] = results[position]
            ranks[removed] = Self.noPair
            next[position] = next[removed]
            if Int(next[position]) < count { previous[Int(next[position])] = Int32(position) }
            rate(position, merges)
            if previous[position] >= 0 { rate(Int(previous[position]), merges) }
        }
        var position = 0
        while position < count {
            output.append(ids[position])
            position = Int(next[position])
        }
    }

    private mutating func start(_ count: Int) {
        if ids.count < count {
            let more = count - ids.count
            for path in [\WordMerger.ids, \.ranks, \.results, \.next, \.previous] {
                self[keyPath: path].append(contentsOf: repeatElement(0, count: more))
            }
        }
        for position in 0..<count {
            next[position] = Int32(position + 1)
            previous[position] = Int32(position - 1)
        }
        heap.removeAll()
        wordCount = count
    }

    private var wordCount = 0

    /// Looks up what the id at `position` and its right neighbour merge into.
    private mutating func rate(_ position: Int, _ merges: MergeTable) {
        let right = Int(next[position])
        guard right < wordCount, let merge = merges[ids[position], ids[right]] else {
            ranks[position] = Self.noPair
            return
        }
        ranks[position] = merge.rank
        results[position] = merge.result
        heap.insert(UInt64(merge.rank) << 32 | UInt64(position))
    }
}

/// A binary heap of integers, smallest first.
struct MinimumHeap {
    private var items: [UInt64] = []

    mutating func removeAll() { items.removeAll(keepingCapacity: true) }

    mutating func insert(_ item: UInt64) {
        items.append(item)
        var child = items.count - 1
        while child > 0 {
            let parent = (child - 1) / 2
            guard items[parent] > item else { break }
            items[child] = items[parent]
            child = parent
        }
        items[child] = item
    }

    mutating func popMinimum() -> UInt64? {
        guard let first = items.first, let last = items.popLast() else { return nil }
        guard !items.isEmpty else { return first }
        var parent = 0
        while true {
            var child = 2 * parent + 1
            guard child < items.count else { break }
            if child + 1 < items.count, items[child + 1] < items[child] { child += 1 }
            guard items[child] < last else { break }
            items[parent] = items[child]
            parent = child
        }
        items[parent] = last
        return first
    }
}
