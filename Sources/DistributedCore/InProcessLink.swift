import Synchronization
import TensorCore

/// Where in-process ranks leave packets for each other.
final class InProcessExchange: Sendable {
    /// From one rank to another, in one group.
    struct Route: Hashable {
        var context, sender, receiver: Int
    }

    /// Packets on one route by their number: those not yet taken, and those taken that the sender has not cleared away.
    struct Box {
        var packets: [Int: Packet] = [:]
        var taken: Set<Int> = []
        var sent = 0
    }

    struct State {
        var boxes: [Route: Box] = [:]
        var failure: LinkFailure?
    }
    let state = Monitor(State())

    func fail(_ failure: LinkFailure) { state.update { if $0.failure == nil { $0.failure = failure } } }
}

/// Packets between threads: the receiver copies from the sender's memory.
struct InProcessLink: Link {
    let name = "threads"
    let rank: Int
    let device: any Device
    private let exchange: InProcessExchange
    /// Ranks of the whole process, by their rank in this group.
    private let members: [Int]
    private let context: Int
    private let receives: ReceiveCounts

    var size: Int { members.count }

    init(_ exchange: InProcessExchange, members: [Int], rank: Int, context: Int, device: any Device) {
        (self.exchange, self.members, self.rank) = (exchange, members, rank)
        (self.context, self.device) = (context, device)
        receives = ReceiveCounts(members.count)
    }

    func subgroup(_ members: [Int], context: Int) -> any Link {
        InProcessLink(
            exchange, members: members.map { self.members[$0] }, rank: members.firstIndex(of: rank)!, context: context,
            device: device)
    }

    private func route(_ sender: Int, _ receiver: Int) -> InProcessExchange.Route {
        .init(context: context, sender: members[sender], receiver: members[receiver])
    }

    func startSend(_ packet: Packet, to peer: Int) -> any Transfer<Void> {
        let route = route(rank, peer)
        let number = exchange.state.update { state in
            var box = state.boxes.removeValue(forKey: route) ?? .init()
            box.packets[box.sent] = packet
            box.sent += 1
            state.boxes[route] = box
            return box.sent - 1
        }
        return Sending(exchange: exchange, route: route, number: number)
    }

    func startReceive(from peer: Int) -> any Transfer<Packet> {
        Receiving(exchange: exchange, route: route(peer, rank), number: receives.next(from: peer), device: device)
    }

    /// Over when the receiver has its copy. The sender lets go of the packet itself, so that its memory is released on its own thread.
    private struct Sending: Transfer {
        let exchange: InProcessExchange
        let route: InProcessExchange.Route
        let number: Int

        func wait(until deadline: Double) throws -> Void? {
            try exchange.state.wait(until: deadline) { state -> Void? in
                if state.boxes[route]!.taken.remove(number) != nil {
                    state.boxes[route]!.packets[number] = nil
                    return ()
                }
                if let failure = state.failure { throw failure }
                return nil
            }
        }
    }

    private struct Receiving: Transfer {
        let exchange: InProcessExchange
        let route: InProcessExchange.Route
        let number: Int
        let device: any Device

        func wait(until deadline: Double) throws -> Packet? {
            guard let packet = try take(until: deadline) else { return nil }
            exchange.state.update { _ = $0.boxes[route]!.taken.insert(number) }
            return packet
        }

        private func take(until deadline: Double) throws -> Packet? {
            let offered = try exchange.state.wait(until: deadline) { state -> Packet? in
                if let packet = state.boxes[route]?.packets[number] { return packet }
                if let failure = state.failure { throw failure }
                return nil
            }
            guard let offered else { return nil }
            let copies = offered.tensors.map { source in
                let target = Tensor(uninitialised: source.shape, source.dtype, on: device)
                source.withBytes { device.write($0, into: target) }
                return target
            }
            return Packet(header: offered.header, tensors: copies)
        }
    }
}

/// How many packets a rank has asked of each peer.
private final class ReceiveCounts: Sendable {
    private let counts: Mutex<[Int]>

    init(_ peers: Int) { counts = Mutex([Int](repeating: 0, count: peers)) }

    func next(from peer: Int) -> Int {
        counts.withLock { counts in
            counts[peer] += 1
            return counts[peer] - 1
        }
    }
}
