/// Names a stream of random numbers, derived from a seed by indices and names: equal derivations give equal numbers on any
/// rank, in any order.
public struct RandomKey: Sendable, Hashable {
    /// What the device's random primitive takes.
    public let value: UInt64

    public init(seed: UInt64) { value = Self.mix(seed &+ 0x9e37_79b9_7f4a_7c15) }

    private init(mixing parent: UInt64, _ child: UInt64) {
        value = Self.mix(parent ^ Self.mix(child &+ 0x9e37_79b9_7f4a_7c15))
    }

    /// The stream of one step, layer or other number under this one.
    public func derived(_ index: Int) -> RandomKey {
        RandomKey(mixing: value, UInt64(bitPattern: Int64(index)))
    }

    /// The stream of one name under this one, by its FNV-1a hash (64 bits).
    public func derived(_ name: String) -> RandomKey {
        var hash: UInt64 = 0xcbf2_9ce4_8422_2325
        for byte in name.utf8 { hash = (hash ^ UInt64(byte)) &* 0x100_0000_01b3 }
        return RandomKey(mixing: value, hash)
    }

    /// The finaliser of SplitMix64 (Steele, Lea, Flood 2014): every bit of the input reaches every bit of the output.
    private static func mix(_ x: UInt64) -> UInt64 {
        let a = (x ^ (x >> 30)) &* 0xbf58_476d_1ce4_e5b9
        let b = (a ^ (a >> 27)) &* 0x94d0_49bb_1331_11eb
        return b ^ (b >> 31)
    }
}
