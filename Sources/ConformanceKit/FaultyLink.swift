import DistributedCore
import Foundation
import Synchronization
import TensorCore

/// A link that harms one packet of one rank, to show that no harm passes unnoticed.
public struct FaultyLink: LinkDecorator {
    /// What happens to the packet.
    public enum Fault: String, Sendable, CaseIterable {
        /// It never arrives.
        case drop
        /// Nor does anything after it: the rank is cut off.
        case cutOff
        /// It arrives late; the rank that sends it does nothing meanwhile.
        case delay
        /// It arrives twice.
        case duplicate
        /// The next packet to the same rank arrives before it.
        case reorder
        /// Its last tensor ends early.
        case truncate
        /// One bit of its tensors is another.
        case bitFlip
        /// One bit of its header is another.
        case headerBitFlip
    }

    public let link: any Link
    private let fault: Fault
    private let number: Int
    private let operation: DistributedCore.Operation?
    private let delay: Double
    private let memory: Memory

    /// - Parameters:
    ///   - number: the packet that is harmed, counting from 0 those that this rank sends in all groups.
    ///   - operation: counts the packets of this operation alone; nil for all.
    ///   - delay: seconds of `.delay`.
    public init(
        _ link: any Link, _ fault: Fault, packet number: Int, of operation: DistributedCore.Operation? = nil,
        delay: Double = 0
    ) {
        self.init(link, fault, number, operation, delay, Memory())
    }

    private init(
        _ link: any Link, _ fault: Fault, _ number: Int, _ operation: DistributedCore.Operation?, _ delay: Double,
        _ memory: Memory
    ) {
        (self.link, self.fault, self.number, self.operation) = (link, fault, number, operation)
        (self.delay, self.memory) = (delay, memory)
    }

    public func subgroup(_ members: [Int], context: Int) -> any Link {
        FaultyLink(link.subgroup(members, context: context), fault, number, operation, delay, memory)
    }

    public func startSend(_ packet: Packet, to peer: Int) -> any Transfer<Void> {
        let turn = memory.turn(of: number, isCounted: isCounted(packet))
        if let held = memory.release(for: peer) {
            let transfer = link.startSend(packet, to: peer)
            _ = link.startSend(held, to: peer)
            return transfer
        }
        if turn == .before || turn == .after && fault != .cutOff { return link.startSend(packet, to: peer) }
        switch fault {
        case .drop, .cutOff:
            return Done()
        case .delay:
            Thread.sleep(forTimeInterval: delay)
            return link.startSend(packet, to: peer)
        case .duplicate:
            let transfer = link.startSend(packet, to: peer)
            _ = link.startSend(packet, to: peer)
            return transfer
        case .reorder:
            memory.hold(packet, for: peer)
            return Done()
        case .truncate:
            guard let last = packet.tensors.last else { return link.startSend(packet, to: peer) }
            let flat = last.flattened()
            let tensors = packet.tensors.dropLast() + [flat.slice(axis: 0, 0..<flat.elementCount / 2)]
            return link.startSend(Packet(header: packet.header, tensors: Array(tensors)), to: peer)
        case .bitFlip:
            return link.startSend(Packet(header: packet.header, tensors: packet.tensors.map(flipped)), to: peer)
        case .headerBitFlip:
            var header = packet.header
            header[1] ^= 1 << 3
            return link.startSend(Packet(header: header, tensors: packet.tensors), to: peer)
        }
    }

    private func isCounted(_ packet: Packet) -> Bool {
        operation == nil || (try? PacketHeader(words: packet.header))?.operation == operation
    }

    /// A copy with one bit of its middle byte changed.
    private func flipped(_ tensor: Tensor) -> Tensor {
        let out = Tensor(uninitialised: tensor.shape, tensor.dtype, on: device)
        var bytes = tensor.withBytes { Array($0) }
        if !bytes.isEmpty { bytes[bytes.count / 2] ^= 0x10 }
        bytes.withUnsafeBytes { device.write($0, into: out) }
        return out
    }

    private struct Done: Transfer {
        func wait(until deadline: Double) -> Void? { () }
    }

    private final class Memory: Sendable {
        private let state = Mutex<(count: Int, held: [Int: Packet])>((0, [:]))

        /// Whether a packet comes before the one that is harmed, is it, or comes after it.
        enum Turn { case before, now, after }

        func turn(of number: Int, isCounted: Bool) -> Turn {
            state.withLock { state in
                if state.count > number { return .after }
                if !isCounted { return .before }
                state.count += 1
                return state.count > number ? .now : .before
            }
        }

        func hold(_ packet: Packet, for peer: Int) { state.withLock { $0.held[peer] = packet } }

        func release(for peer: Int) -> Packet? { state.withLock { $0.held.removeValue(forKey: peer) } }
    }
}
