/// A random order of `0 ..< count` of which any element can be asked for without holding the others.
///
/// A balanced Feistel network permutes the smallest even number of bits that holds `count`; values outside the range are
/// sent through again (cycle walking; Black, Rogaway 2002), less than four times on average.
struct Permutation: Sendable {
    let count: Int
    private let halfBits: UInt64
    private let roundKeys: [UInt64]

    private static let roundCount: UInt64 = 8

    init(count: Int, seed: UInt64, epoch: Int) {
        self.count = count
        var halfBits: UInt64 = 1
        while halfBits < 31, 1 << (2 * halfBits) < count { halfBits += 1 }
        self.halfBits = halfBits
        let random = CounterRandom(seed: seed, purpose: mixed(UInt64(bitPattern: Int64(epoch))))
        roundKeys = (0..<Self.roundCount).map { random.bits($0) }
    }

    subscript(index: Int) -> Int {
        guard (0..<count).contains(index) else { fatalError("Permutation: index \(index) is not below \(count)") }
        var value = UInt64(index)
        repeat { value = permuted(value) } while value >= UInt64(count)
        return Int(value)
    }

    private func permuted(_ value: UInt64) -> UInt64 {
        let mask = (1 << halfBits) - 1 as UInt64
        var left = value >> halfBits
        var right = value & mask
        for key in roundKeys { (left, right) = (right, left ^ (mixed(right ^ key) & mask)) }
        return left << halfBits | right
    }
}
