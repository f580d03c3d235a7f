import Synchronization
import TensorCore

/// The communicator over any link: numbers and checks every packet, bounds every wait, and says who lost whom.
///
/// Collectives (`LinkCommunicator+Collectives.swift`) send straight from rank to rank, so that an error names the rank that is at fault
/// and not one that waits itself.
public final class LinkCommunicator: Communicator {
    /// What every wait and every packet is held to.
    public struct Rules: Sendable {
        /// Seconds a rank waits for a silent peer.
        public var deadline: Double
        /// Whether packets carry a checksum of their payload. (Sequence numbers and a checksum of the header they always have.)
        public var checksums: Bool

        public init(deadline: Double = 60, checksums: Bool = true) {
            self.deadline = deadline
            self.checksums = checksums
        }
    }

    public let name: String
    public let rank: Int
    public let size: Int
    public let device: any Device
    let link: any Link
    let rules: Rules
    let contexts: ContextNumbers
    /// The group this one was split from; what is sent here counts there too.
    private let parent: LinkCommunicator?

    private struct Counters {
        var operations = 0
        var traffic = Traffic()
        /// Packets to and from each peer so far.
        var sent, received: [Int]
    }
    private let counters: Mutex<Counters>

    public convenience init(_ link: any Link, _ rules: Rules) { self.init(link, rules, ContextNumbers()) }

    init(_ link: any Link, _ rules: Rules, _ contexts: ContextNumbers, splitFrom parent: LinkCommunicator? = nil) {
        self.parent = parent
        (name, rank, size, device) = (link.name, link.rank, link.size, link.device)
        (self.link, self.rules, self.contexts) = (link, rules, contexts)
        let none = [Int](repeating: 0, count: link.size)
        counters = Mutex(Counters(sent: none, received: none))
    }

    public var traffic: Traffic { counters.withLock { $0.traffic } }

    /// One operation of this rank, for headers and errors.
    struct Call {
        var operation: Operation
        var number: Int
        var hop: Int?
        /// What this rank sends, to all peers together.
        var bytes: Int
    }

    func begin(_ operation: Operation, hop: Int? = nil, bytes: Int = 0) -> Call {
        counters.withLock { counters in
            counters.operations += 1
            return Call(operation: operation, number: counters.operations, hop: hop, bytes: bytes)
        }
    }

    func countTraffic(_ messages: Int, _ bytes: Int) {
        counters.withLock { counters in
            counters.traffic.messages += messages
            counters.traffic.bytes += bytes
        }
        parent?.countTraffic(messages, bytes)
    }

    // MARK: Between two ranks

    /// The sender packs strided tensors, since it owns them; the packed copy lives until `Sending.wait`.
    func send(_ message: Message, to peer: Int, _ call: Call) -> Sending {
        let tensors = message.tensors.map { $0.detached.contiguous() }
        countTraffic(1, message.byteCount)
        let sequence = counters.withLock { counters in
            counters.sent[peer] += 1
            return counters.sent[peer] - 1
        }
        let header = PacketHeader(
            sequence: sequence, operation: call.operation, number: call.number, hop: call.hop,
            checksum: rules.checksums ? payloadChecksum(tensors) : nil,
            parts: tensors.map { .init(dtype: $0.dtype, shape: $0.shape) }, integers: message.integers)
        let transfer = link.startSend(Packet(header: header.words, tensors: tensors), to: peer)
        return Sending(communicator: self, transfer: transfer, peer: peer, call: call)
    }

    func receive(from peer: Int, _ call: Call) -> Receiving {
        let sequence = counters.withLock { counters in
            counters.received[peer] += 1
            return counters.received[peer] - 1
        }
        return Receiving(
            communicator: self, transfer: link.startReceive(from: peer), peer: peer, call: call, sequence: sequence)
    }

    struct Sending: Sendable {
        let communicator: LinkCommunicator
        let transfer: any Transfer<Void>
        let peer: Int
        let call: Call

        /// Returns when the tensors may be written again.
        func wait() throws {
            if try communicator.wait(for: transfer, peer, call) == nil {
                throw communicator.lost(peer, call, "they were not taken within \(communicator.rules.deadline) s")
            }
        }
    }

    struct Receiving: Sendable {
        let communicator: LinkCommunicator
        let transfer: any Transfer<Packet>
        let peer: Int
        let call: Call
        let sequence: Int

        func wait() throws -> Message {
            guard let packet = try communicator.wait(for: transfer, peer, call) else {
                throw communicator.lost(peer, call, "nothing arrived within \(communicator.rules.deadline) s")
            }
            do {
                return try check(packet)
            } catch let failure as LinkFailure {
                throw communicator.lost(peer, call, failure.description)
            }
        }

        private func check(_ packet: Packet) throws -> Message {
            let header = try PacketHeader(words: packet.header)
            if header.sequence != sequence {
                let numbers = "its packet \(header.sequence) arrived where packet \(sequence) was due"
                throw LinkFailure("\(numbers): one was lost, repeated or overtaken")
            }
            if header.operation != call.operation || header.number != call.number {
                throw LinkFailure("it is in \(header.operation), operation \(header.number)")
            }
            if packet.arrivedBytes != header.payloadBytes {
                let counts = "\(packet.arrivedBytes) of \(header.payloadBytes) bytes arrived"
                throw LinkFailure("its packet is truncated: \(counts)")
            }
            if let sum = header.checksum, sum != payloadChecksum(packet.tensors) {
                throw LinkFailure("its packet of \(header.payloadBytes) bytes was changed on the way (checksum)")
            }
            return Message(packet.tensors, integers: header.integers)
        }
    }

    private func wait<Value>(for transfer: any Transfer<Value>, _ peer: Int, _ call: Call) throws -> Value? {
        link.isWaiting(for: "rank \(rank) was waiting for rank \(peer) in \(place(call))")
        defer { link.isWaiting(for: nil) }
        do {
            return try transfer.wait(until: MonotonicClock.seconds + rules.deadline)
        } catch let failure as LinkFailure {
            throw lost(peer, call, failure.description, failure.code)
        }
    }

    func lost(_ peer: Int, _ call: Call, _ why: String, _ code: RingZooError.Code = .interrupted) -> RingZooError {
        RingZooError(code, "rank \(rank) lost rank \(peer) in \(place(call)): \(why)")
    }

    private func place(_ call: Call) -> String {
        let hop = call.hop.map { ", hop \($0)" } ?? ""
        return "\(call.operation) (operation \(call.number)\(hop), \(call.bytes) bytes sent)"
    }

    /// A message to oneself: tensors of its own memory, as if they had travelled.
    func copy(_ message: Message) -> Message {
        let tensors = message.tensors.map { source in
            let target = Tensor(uninitialised: source.shape, source.dtype, on: device)
            device.copy(source.detached, into: target)
            return target
        }
        return Message(tensors, integers: message.integers)
    }

    // MARK: From one rank to the next

    private struct Shift: PendingShift {
        let sending: Sending?
        let receiving: Receiving?

        func wait() throws -> Message? {
            let received = try receiving?.wait()
            try sending?.wait()
            return received
        }
    }

    private struct ShiftToOneself: PendingShift {
        let message: Message

        func wait() -> Message? { message }
    }

    public func startShift(_ message: Message, to receiver: Int?, from sender: Int?, hop: Int?) throws
        -> any PendingShift
    {
        let call = begin(.rotate, hop: hop, bytes: receiver == nil ? 0 : message.byteCount)
        if receiver == rank {
            countTraffic(1, message.byteCount)
            return ShiftToOneself(message: copy(message))
        }
        let receiving = sender.map { receive(from: $0, call) }
        return Shift(sending: receiver.map { send(message, to: $0, call) }, receiving: receiving)
    }
}

/// Numbers that keep the packets of a rank's groups apart.
///
/// A new group takes the largest number that any rank of the group it is split from would take next. So no rank is in two groups of
/// one number, and two ranks never have two.
final class ContextNumbers: Sendable {
    private let following = Mutex(1)

    var next: Int { following.withLock { $0 } }

    func use(_ number: Int) { following.withLock { $0 = max($0, number + 1) } }
}
