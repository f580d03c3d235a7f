import AttentionCore
import Synchronization
import TensorCore

/// One rank of a group that is not there: what its peers would send arrives as memory without values, at the time it would arrive.
///
/// All ranks are taken to do the same at the same time, so a peer's message has the size of this rank's own. The positions of a
/// key block on its way around the ring are those of the rank it would come from.
public final class RehearsalCommunicator: Communicator {
    public let name = "rehearsal"
    public let rank: Int
    public let size: Int
    public var device: any Device { clock }
    private let clock: RehearsalDevice
    private let link: RehearsalLink
    /// What each rank holds, to know whose block comes next.
    private let shards: [Positions]
    private let sent = Mutex(Traffic())

    public init(
        rank: Int, size: Int, length: Int, layout: SequenceLayout, shares: [Int]? = nil, link: RehearsalLink,
        on device: RehearsalDevice
    ) {
        self.rank = rank
        self.size = size
        self.link = link
        clock = device
        shards = layout.shards(length: length, size: size, shares: shares)
    }

    public var traffic: Traffic { sent.withLock { $0 } }

    private func count(_ messages: Int, _ bytes: Int) {
        sent.withLock {
            $0.messages += messages
            $0.bytes += bytes
        }
    }

    /// Lets `messages` of so many bytes pass one after the other.
    private func exchange(_ messages: Int, _ bytes: Int) {
        if messages == 0 { return }
        count(messages, messages * bytes)
        let last = (0..<messages).reduce(0.0) { _, _ in arrival(bytes) }
        clock.wait(until: last)
    }

    /// When a message that is started now has arrived.
    private func arrival(_ bytes: Int) -> Double { link.arrival(bytes, sentAt: clock.clock) }

    private func copy(_ message: Message) -> Message {
        Message(
            message.tensors.map { Tensor(uninitialised: $0.shape, $0.dtype, on: clock) }, integers: message.integers)
    }

    public func startShift(_ message: Message, to receiver: Int?, from sender: Int?, hop: Int?) throws
        -> any PendingShift
    {
        // What is strided is packed by the rank that owns it.
        let packed = receiver == nil ? [] : message.tensors.map { $0.detached.contiguous() }
        if receiver != nil { count(1, message.byteCount) }
        // All ranks start at the same time: what arrives here was sent when this rank would have.
        let arrival = receiver == nil && sender == nil ? 0 : arrival(message.byteCount)
        let arriving = sender.map { sender in
            // At hop h a rank sends what belongs to the block of rank - h.
            hop.map { outline(message, for: shards[(sender - $0 + size) % size]) } ?? outline(message)
        }
        return Shift(communicator: self, sending: packed, arriving: arriving, arrival: arrival)
    }

    /// A message without its tensors.
    private struct Outline: Sendable {
        var integers: [Int]
        var parts: [(shape: [Int], dtype: DType)]
    }

    private func outline(_ message: Message) -> Outline {
        Outline(integers: message.integers, parts: message.tensors.map { ($0.shape, $0.dtype) })
    }

    /// What a message about the tokens of one shard looks like for those of another, which may be more or fewer.
    private func outline(_ message: Message, for other: Positions) -> Outline {
        var outline = outline(message)
        let positions = Positions.list(outline.integers)
        if let first = positions.first, shards.contains(first) {
            outline.integers = Positions.integers(positions.map { _ in other })
        }
        // Keys and values are [B, H, T, D], rows [B, H, T], documents [B, T].
        for part in outline.parts.indices {
            let axis = min(outline.parts[part].shape.count - 1, 2)
            outline.parts[part].shape[axis] = other.count
        }
        return outline
    }

    private func tensors(_ outline: Outline) -> [Tensor] {
        outline.parts.map { Tensor(uninitialised: $0.shape, $0.dtype, on: clock) }
    }

    private final class Shift: PendingShift {
        private let communicator: RehearsalCommunicator
        private let arriving: Outline?
        private let arrival: Double
        /// Held until the peer has taken them.
        private let sending: Mutex<[Tensor]>

        init(communicator: RehearsalCommunicator, sending: [Tensor], arriving: Outline?, arrival: Double) {
            (self.communicator, self.arriving, self.arrival) = (communicator, arriving, arrival)
            self.sending = Mutex(sending)
        }

        func wait() -> Message? {
            communicator.clock.wait(until: arrival)
            let message = arriving.map { Message(communicator.tensors($0), integers: $0.integers) }
            sending.withLock { $0 = [] }
            return message
        }
    }

    public func startAllGather(_ message: Message) throws -> any PendingGather {
        count(size - 1, (size - 1) * message.byteCount)
        let last = (0..<size - 1).reduce(clock.clock) { _, _ in arrival(message.byteCount) }
        return Gather(communicator: self, message: message, arrival: last)
    }

    private struct Gather: PendingGather {
        let communicator: RehearsalCommunicator
        let message: Message
        let arrival: Double

        func wait() -> [Message] {
            communicator.clock.wait(until: arrival)
            return (0..<communicator.size).map { _ in communicator.copy(message) }
        }
    }

    public func allReduce(_ tensor: Tensor) throws -> Tensor {
        if size == 1 { return tensor }
        let sum = Tensor.zeros(tensor.shape, tensor.dtype, on: clock)
        // Each rank sums one piece, and all collect the pieces: one of them is held beside the sum at any time.
        let piece = (tensor.elementCount + size - 1) / size
        withExtendedLifetime(Tensor(uninitialised: [piece], tensor.dtype, on: clock)) {
            exchange(2 * (size - 1), tensor.byteCount / size)
        }
        return sum
    }

    public func reduceScatter(_ tensor: Tensor) throws -> Tensor {
        exchange(size - 1, tensor.byteCount / size)
        let rows = Range.piece(rank, of: size, count: tensor.shape[0]).count
        return Tensor(uninitialised: [rows] + tensor.shape.dropFirst(), tensor.dtype, on: clock)
    }

    public func allToAll(_ messages: [Message]) throws -> [Message] {
        let own = messages[rank]
        // What tells its tokens' positions is about this rank's; the others send the same about theirs.
        let tellsPositions = own.integers == Positions.integers([shards[rank], shards[rank]])
        if tellsPositions && messages.contains(where: { $0.byteCount != own.byteCount }) {
            throw RingZooError(
                .config, "a plan takes all ranks to do the same, but heads do not divide evenly among \(size) ranks",
                tried: ["a number of ranks that divides the key/value heads would work, or strategy ring"])
        }
        for (peer, message) in messages.enumerated() where peer != rank { exchange(1, message.byteCount) }
        return (0..<size).map { peer in
            if !tellsPositions || peer == rank { return copy(own) }
            let arriving = outline(own, for: shards[peer])
            return Message(tensors(arriving), integers: arriving.integers)
        }
    }

    public func broadcast(_ message: Message, from root: Int) throws -> Message {
        exchange(size > 1 ? 1 : 0, message.byteCount)
        return message
    }

    public func barrier() throws { exchange(size > 1 ? 1 : 0, 0) }

    public func split(color: Int) throws -> any Communicator {
        throw RingZooError(
            .config, "a plan has one group of ranks, and this strategy splits them",
            tried: ["strategy ring, gather or ulysses would work"])
    }
}
