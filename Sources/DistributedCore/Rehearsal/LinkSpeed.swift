import Synchronization

/// How messages travel between two ranks.
public struct LinkSpeed: Sendable, Hashable, Codable {
    /// Bytes/s in each direction.
    public var bandwidth: Double
    /// Seconds from the start of a message to its first byte.
    public var latency: Double
    /// Whether messages travel while a rank computes. Between threads they do not: the receiver copies when it waits.
    public var overlaps: Bool

    public init(bandwidth: Double, latency: Double, overlaps: Bool = true) {
        (self.bandwidth, self.latency, self.overlaps) = (bandwidth, latency, overlaps)
    }

    public func seconds(_ bytes: Int) -> Double { latency + Double(bytes) / bandwidth }
}

/// The link of one rank, which all its groups share.
public final class RehearsalLink: Sendable {
    let speed: LinkSpeed
    /// When all that was given to it has been sent: messages go one after the other.
    private let free = Mutex(0.0)

    public init(_ speed: LinkSpeed) { self.speed = speed }

    func arrival(_ bytes: Int, sentAt now: Double) -> Double {
        free.withLock { free in
            free = max(free, now) + speed.seconds(bytes)
            return free
        }
    }
}
