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
        rank: Int, size: Int, length: Int, layout: SequenceLayout, link: RehearsalLink, on device: RehearsalDevice
    ) {
        self.rank = rank
        self.size = size
        self.link = link
        clock = device
        shards = (0..<size).map { layout.positions(length: length, rank: $0, size: size) }
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

    public func startRotate(_ message: Message, hop: Int?) throws -> any PendingRotation {
        count(1, message.byteCount)
        // What is strided is packed by the rank that owns it.
        let packed = message.tensors.map { $0.detached.contiguous() }
        return Rotation(
            communicator: self, sending: packed, arriving: arriving(message, hop), arrival: arrival(message.byteCount))
    }

    /// What a message from the rank before looks like. At hop h this rank sends what belongs to the block of rank - h, and gets what
    /// belongs to the one before that, which may have another number of tokens.
    private func arriving(_ message: Message, _ hop: Int?) -> Outline {
        var outline = Outline(integers: message.integers, parts: message.tensors.map { ($0.shape, $0.dtype) })
        guard let hop else { return outline }
        let (own, next) = (shards[modulo(rank - hop)], shards[modulo(rank - hop - 1)])
        if outline.integers == own.numbers { outline.integers = next.numbers }
        // Keys and values are [B, H, T, D], documents [B, T].
        for part in outline.parts.indices {
            let axis = outline.parts[part].shape.count == 4 ? 2 : outline.parts[part].shape.count - 1
            outline.parts[part].shape[axis] = next.count
        }
        return outline
    }

    private func modulo(_ rank: Int) -> Int { (rank % size + size) % size }

    /// A message without its tensors.
    private struct Outline: Sendable {
        var integers: [Int]
        var parts: [(shape: [Int], dtype: DType)]
    }

    private final class Rotation: PendingRotation {
        private let communicator: RehearsalCommunicator
        private let arriving: Outline
        private let arrival: Double
        /// Held until the peer has taken them.
        private let sending: Mutex<[Tensor]>

        init(communicator: RehearsalCommunicator, sending: [Tensor], arriving: Outline, arrival: Double) {
            (self.communicator, self.arriving, self.arrival) = (communicator, arriving, arrival)
            self.sending = Mutex(sending)
        }

        func wait() -> Message {
            communicator.clock.wait(until: arrival)
            let tensors = arriving.parts.map { Tensor(uninitialised: $0.shape, $0.dtype, on: communicator.clock) }
            sending.withLock { $0 = [] }
            return Message(tensors, integers: arriving.integers)
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
        for (peer, message) in messages.enumerated() where peer != rank { exchange(1, message.byteCount) }
        return messages.map(copy)
    }

    public func broadcast(_ message: Message, from root: Int) throws -> Message {
        exchange(size > 1 ? 1 : 0, message.byteCount)
        return message
    }

    public func barrier() throws { exchange(size > 1 ? 1 : 0, 0) }

    public func split(color: Int) throws -> any Communicator {
        throw RingZooError(.internalFailure, "a rehearsal has one group of ranks")
    }
}

extension Positions {
    /// Start, count and stride of each run, as key blocks carry them.
    fileprivate var numbers: [Int] { runs.flatMap { [$0.start, $0.count, $0.stride] } }
}
