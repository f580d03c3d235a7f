/// Small whole numbers in a fixed random order, for tests that try many shapes (SplitMix64; Steele, Lea, Flood 2014).
struct Draw {
    private var state: UInt64

    init(seed: UInt64) { state = seed }

    mutating func callAsFunction(_ range: ClosedRange<Int>) -> Int {
        state &+= 0x9e37_79b9_7f4a_7c15
        var z = state
        z = (z ^ (z >> 30)) &* 0xbf58_476d_1ce4_e5b9
        z = (z ^ (z >> 27)) &* 0x94d0_49bb_1331_11eb
        z ^= z >> 31
        return range.lowerBound + Int(z % UInt64(range.count))
    }

    /// True once in `one`.
    mutating func chance(_ one: Int) -> Bool { self(1...one) == 1 }
}
