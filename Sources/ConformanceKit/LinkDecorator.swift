import DistributedCore
import TensorCore

/// A link that changes what happens to packets on their way over another one, and leaves all else to that.
public protocol LinkDecorator: Link {
    var link: any Link { get }
}

extension LinkDecorator {
    public var name: String { link.name }
    public var rank: Int { link.rank }
    public var size: Int { link.size }
    public var device: any Device { link.device }

    public func isWaiting(for what: String?) { link.isWaiting(for: what) }

    public func startReceive(from peer: Int) -> any Transfer<Packet> { link.startReceive(from: peer) }
}
