import AttentionCore
import Synchronization
import TensorCore

/// One rank of a group that is not there: what its peers would send arrives as memory without values, at the time it would arrive.
///
/// All ranks are taken to do the same at the same time, each with its own part of the sequence. So a peer's message is this rank's own,
/// but for the tokens where it is about tokens: those of a key block on its way around the ring are of the rank it would come from.
public final class RehearsalCommunicator: Communicator {
    public let name = "rehearsal"
    public let rank: Int
    public var size: Int { members.count }
    public var device: any Device { clock }
    private let clock: RehearsalDevice
    private let link: RehearsalLink
    /// What each rank of the whole sequence holds, to know whose block comes next.
    private let shards: [Positions]
    /// The ranks of this group by their numbers in the whole sequence.
    private let members: [Int]
    /// The group this one was split from; what is sent here counts there too.
    private let parent: RehearsalCommunicator?
    private let sent = Mutex(Traffic())

    /// - Parameter length: tokens of the sequence that these ranks share.
    public convenience init(
        rank: Int, size: Int, length: Int, layout: SequenceLayout, shares: [Int]? = nil, link: RehearsalLink,
        on device: RehearsalDevice
    ) {
        self.init(
            rank: rank, members: Array(0..<size), of: layout.shards(length: length, size: size, shares: shares),
            link: link, on: device, splitFrom: nil)
    }

    private init(
        rank: Int, members: [Int], of shards: [Positions], link: RehearsalLink, on device: RehearsalDevice,
        splitFrom parent: RehearsalCommunicator?
    ) {
        (self.rank, self.members, self.shards) = (rank, members, shards)
        (self.link, clock, self.parent) = (link, device, parent)
    }

    public var traffic: Traffic { sent.withLock { $0 } }

    private func count(_ messages: Int, _ bytes: Int) {
        sent.withLock {
            $0.messages += messages
            $0.bytes += bytes
        }
        parent?.count(messages, bytes)
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

    /// Waits for what was on its way while this rank computed.
    private func waitForArrival(_ arrival: Double, _ bytes: Int) {
        clock.wait(until: link.speed.overlaps ? arrival : clock.clock + link.speed.seconds(bytes))
    }

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
            hop.map { outline(message, of: (rank - $0 + size) % size, for: (sender - $0 + size) % size) }
                ?? outline(message)
        }
        return Shift(communicator: self, sending: packed, arriving: arriving, arrival: arrival)
    }

    /// A message without its tensors.
    private struct Outline: Sendable {
        var integers: [Int]
        var parts: [(shape: [Int], dtype: DType)]
        var byteCount: Int { parts.reduce(0) { $0 + $1.shape.reduce($1.dtype.byteCount, *) } }
    }

    private func outline(_ message: Message) -> Outline {
        Outline(integers: message.integers, parts: message.tensors.map { ($0.shape, $0.dtype) })
    }

    /// What a message about the tokens of member `owner` looks like for those of another member, which may be more or fewer.
    private func outline(_ message: Message, of owner: Int, for other: Int) -> Outline {
        var outline = outline(message)
        guard let first = outline.parts.first else { return outline }
        let together = ranksTogether(holding: first.shape[tokenAxis(first.shape)], by: [owner, rank])
        func tokens(of member: Int) -> Positions {
            let first = members[member] / together * together
            return Positions(runs: shards[first..<first + together].flatMap(\.runs))
        }
        let positions = Positions.list(outline.integers)
        if positions.first == tokens(of: owner) {
            outline.integers = Positions.integers(positions.map { _ in tokens(of: other) })
        }
        for part in outline.parts.indices {
            outline.parts[part].shape[tokenAxis(outline.parts[part].shape)] = tokens(of: other).count
        }
        return outline
    }

    /// Keys and values are [B, H, T, D], rows [B, H, T], documents [B, T].
    private func tokenAxis(_ shape: [Int]) -> Int { min(shape.count - 1, 2) }

    /// How many neighbours have so many tokens together, one of these members among them: one, or as many as share heads where groups
    /// of ranks are a ring.
    private func ranksTogether(holding count: Int, by holders: [Int]) -> Int {
        for holder in holders {
            for size in 1...shards.count where shards.count % size == 0 {
                let first = members[holder] / size * size
                if shards[first..<first + size].reduce(0, { $0 + $1.count }) == count { return size }
            }
        }
        return 1
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
            communicator.waitForArrival(arrival, arriving?.byteCount ?? 0)
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
            communicator.waitForArrival(arrival, (communicator.size - 1) * message.byteCount)
            return communicator.received(like: message)
        }
    }

    public func allReduce(_ tensor: Tensor) throws -> Tensor {
        if size == 1 { return tensor }
        let sum = Tensor.zeros(tensor.shape, tensor.dtype, on: clock)
        // Each rank sums one piece, and all collect the pieces: one of them is held beside the sum at any time.
        let piece = Tensor(uninitialised: [(tensor.elementCount + size - 1) / size], tensor.dtype, on: clock)
        exchange(2 * (size - 1), tensor.byteCount / size)
        for _ in 0..<size { clock.binary(.add, piece, piece, into: piece) }
        for _ in 1..<size { clock.copy(piece, into: piece) }
        return sum
    }

    public func reduceScatter(_ tensor: Tensor) throws -> Tensor {
        exchange(size - 1, tensor.byteCount / size)
        let rows = Range.piece(rank, of: size, count: tensor.shape[0]).count
        let sum = Tensor(uninitialised: [rows] + tensor.shape.dropFirst(), tensor.dtype, on: clock)
        for _ in 0..<size { clock.binary(.add, sum, sum, into: sum) }
        return sum
    }

    public func allToAll(_ messages: [Message]) throws -> [Message] {
        exchange(messages)
        return received(like: messages[rank])
    }

    /// What every rank sends here where this one sends `own` to itself. If that tells this rank's positions, for queries or keys or both,
    /// the others tell theirs.
    private func received(like own: Message) -> [Message] {
        let positions = shards[members[rank]]
        let tellsPositions = [[positions], [positions, positions]].contains {
            own.integers == Positions.integers($0)
        }
        return (0..<size).map { peer in
            if !tellsPositions || peer == rank { return copy(own) }
            let arriving = outline(own, of: rank, for: peer)
            return Message(tensors(arriving), integers: arriving.integers)
        }
    }

    public func allToAll(_ messages: [Message], expecting shapes: (_ sender: Int) -> [[Int]]) throws -> [Message] {
        exchange(messages)
        return (0..<size).map { peer in
            let tensors = zip(shapes(peer), messages[rank].tensors).map { shape, own in
                Tensor(uninitialised: shape, own.dtype, on: clock)
            }
            return Message(tensors)
        }
    }

    private func exchange(_ messages: [Message]) {
        for (peer, message) in messages.enumerated() where peer != rank { exchange(1, message.byteCount) }
    }

    public func broadcast(_ message: Message, from root: Int) throws -> Message {
        exchange(size > 1 ? 1 : 0, message.byteCount)
        return message
    }

    public func barrier() throws { exchange(size > 1 ? 1 : 0, 0) }

    public func split(color: Int) throws -> any Communicator {
        throw RingZooError(
            .config, "a plan has one rank, which cannot ask the others for their colors",
            tried: ["split(by:), by a function of the rank, would work"])
    }

    public func split(by color: (_ rank: Int) -> Int) -> any Communicator {
        let ranks = (0..<size).filter { color($0) == color(rank) }
        return RehearsalCommunicator(
            rank: ranks.firstIndex(of: rank)!, members: ranks.map { members[$0] }, of: shards, link: link, on: clock,
            splitFrom: self)
    }
}
