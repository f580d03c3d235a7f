/// What two neighbouring ids merge into, and how early: an open-addressing hash table that is read in the inner loop.
///
/// 16 bytes a slot, at most half full.
struct MergeTable: Sendable {
    struct Merge: Sendable, Equatable {
        /// Lower ranks are merged first.
        var rank: Int32
        var result: Int32
    }

    private var keys: [UInt64]
    private var merges: [Merge]
    private(set) var count = 0
    private let mask: Int

    /// No pair has this key, because ids are not negative.
    private static let emptyKey = UInt64.max

    init(capacity: Int) {
        var slots = 16
        while slots < 2 * capacity { slots *= 2 }
        keys = Array(repeating: Self.emptyKey, count: slots)
        merges = Array(repeating: Merge(rank: 0, result: 0), count: slots)
        mask = slots - 1
    }

    @inline(__always)
    subscript(left: Int32, right: Int32) -> Merge? {
        let key = Self.key(left, right)
        var slot = firstSlot(key)
        while keys[slot] != Self.emptyKey {
            if keys[slot] == key { return merges[slot] }
            slot = (slot + 1) & mask
        }
        return nil
    }

    /// Adds a pair; false where the pair is there already (the first one stays).
    mutating func insert(_ left: Int32, _ right: Int32, _ merge: Merge) -> Bool {
        let key = Self.key(left, right)
        var slot = firstSlot(key)
        while keys[slot] != Self.emptyKey {
            if keys[slot] == key { return false }
            slot = (slot + 1) & mask
        }
        guard 2 * count < keys.count else { fatalError("MergeTable: more pairs than the capacity it was made with") }
        keys[slot] = key
        merges[slot] = merge
        count += 1
        return true
    }

    @inline(__always)
    private static func key(_ left: Int32, _ right: Int32) -> UInt64 {
        UInt64(UInt32(bitPattern: left)) << 32 | UInt64(UInt32(bitPattern: right))
    }

    @inline(__always)
    private func firstSlot(_ key: UInt64) -> Int { Int(truncatingIfNeeded: mixed(key)) & mask }
}
