/// How messages travel between two ranks.
public struct LinkSpeed: Sendable, Hashable, Codable {
    /// Bytes/s in each direction.
    public var bandwidth: Double
    /// Seconds from the start of a message to its first byte.
    public var latency: Double

    public init(bandwidth: Double, latency: Double) {
        self.bandwidth = bandwidth
        self.latency = latency
    }

    public func seconds(_ bytes: Int) -> Double { latency + Double(bytes) / bandwidth }
}
