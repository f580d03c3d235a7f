/// What a device does in a second: all that a rehearsal knows of its time.
public struct DeviceSpeed: Sendable, Hashable, Codable {
    /// Matrix products, FLOP/s.
    public var products: Double
    /// Attention, FLOP/s over visible pairs of query and key.
    public var attention: Double
    /// Bytes/s that operations without many FLOPs read and write.
    public var memory: Double
    /// Seconds that any operation takes before it does anything.
    public var launch: Double

    public init(products: Double, attention: Double, memory: Double, launch: Double) {
        self.products = products
        self.attention = attention
        self.memory = memory
        self.launch = launch
    }
}
