import DistributedCore
import Foundation
import Synchronization
import TensorCore

/// A link that is as slow as one is told to: what transfers cost on a network, measured on one machine.
///
/// A rank's packets leave one after the other at `speed.bandwidth`, whomever they go to, and arrive `speed.latency` after their last byte
/// has left; then they go over the link below, which should be fast. Waiting takes no processor time.
public struct SlowLink: LinkDecorator {
    public let link: any Link
    private let speed: LinkSpeed
    private let wire: Wire

    public init(_ link: any Link, _ speed: LinkSpeed) { self.init(link, speed, Wire()) }

    private init(_ link: any Link, _ speed: LinkSpeed, _ wire: Wire) {
        (self.link, self.speed, self.wire) = (link, speed, wire)
    }

    /// All groups of a rank share its wire.
    public func subgroup(_ members: [Int], context: Int) -> any Link {
        SlowLink(link.subgroup(members, context: context), speed, wire)
    }

    public func startSend(_ packet: Packet, to peer: Int) -> any Transfer<Void> {
        let sending = Sending()
        wire.carry(packet.header.count * 8 + packet.arrivedBytes, speed) { [link] in
            let transfer = link.startSend(packet, to: peer)
            sending.below.update { $0 = transfer }
        }
        return sending
    }

    /// Over when the packet has been handed on and the link below is done with it.
    private struct Sending: Transfer {
        let below = Monitor<(any Transfer<Void>)?>(nil)

        func wait(until deadline: Double) throws -> Void? {
            try below.wait(until: deadline) { $0 }?.wait(until: deadline)
        }
    }

    /// One rank's way out.
    private final class Wire: Sendable {
        private let queue = DispatchQueue(label: "slow link")
        /// When all that was given to it has left.
        private let free = Mutex(0.0)

        /// Calls `arrive` when a packet of so many bytes that is sent now has arrived; in the order of the calls.
        func carry(_ bytes: Int, _ speed: LinkSpeed, _ arrive: @escaping @Sendable () -> Void) {
            let arrival = free.withLock { free in
                free = max(free, MonotonicClock.seconds) + Double(bytes) / speed.bandwidth
                return free + speed.latency
            }
            queue.async {
                Thread.sleep(forTimeInterval: max(0, arrival - MonotonicClock.seconds))
                arrive()
            }
        }
    }
}
