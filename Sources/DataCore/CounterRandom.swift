/// Random numbers that are a function of (key, counter): no state to save, any draw can be made again.
struct CounterRandom: Sendable {
    private let key: UInt64

    /// `purpose` separates the streams of one seed.
    init(seed: UInt64, purpose: UInt64) {
        key = mixed(mixed(seed) ^ (purpose &* 0x9e37_79b9_7f4a_7c15))
    }

    func bits(_ counter: UInt64) -> UInt64 {
        mixed(key ^ mixed(counter &+ 0x9e37_79b9_7f4a_7c15))
    }

    /// Uniform in `0 ..< bound`; the high half of a 64 x 64 bit product, whose bias is below bound / 2^64.
    func index(below bound: Int, _ counter: UInt64) -> Int {
        Int(bits(counter).multipliedFullWidth(by: UInt64(bound)).high)
    }
}

/// A bijection of 64 bits that spreads every input bit over all output bits (the finalizer of SplitMix64; Steele, Lea,
/// Flood 2014).
@inline(__always)
func mixed(_ value: UInt64) -> UInt64 {
    var z = value
    z = (z ^ (z >> 30)) &* 0xbf58_476d_1ce4_e5b9
    z = (z ^ (z >> 27)) &* 0x94d0_49bb_1331_11eb
    return z ^ (z >> 31)
}
