/// Small whole numbers in a fixed random order, for tests that try many shapes.
public struct Draw: Sendable {
    private var random: SplitMix64

    public init(seed: UInt64) { random = SplitMix64(seed: seed) }

    public mutating func callAsFunction(_ range: ClosedRange<Int>) -> Int {
        range.lowerBound + Int(random.next() % UInt64(range.count))
    }

    /// True once in `one`.
    public mutating func chance(_ one: Int) -> Bool { self(1...one) == 1 }
}
