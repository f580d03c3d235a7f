import TensorCore

/// What travels: tensors, and a few integers that say what they are.
public struct Message: Sendable {
    public var tensors: [Tensor]
    public var integers: [Int]

    public init(_ tensors: [Tensor], integers: [Int] = []) {
        self.tensors = tensors
        self.integers = integers
    }

    public var byteCount: Int { tensors.reduce(0) { $0 + $1.byteCount } }
}

/// How ranks talk. Every rank makes the same calls in the same order.
///
/// Received tensors live on the receiver's own device; ranks share no storage. Every wait has a deadline, after which it throws a
/// `RingZooError(.interrupted)` that names rank, peer, operation, hop and bytes; so does a wait that gets something else than the peer
/// has sent, and one for a rank that has failed, with that rank's own code.
public protocol Communicator: Sendable {
    var name: String { get }
    var rank: Int { get }
    var size: Int { get }
    /// Where received tensors are made.
    var device: any Device { get }

    /// Starts to send `message` to one rank and to receive from another, and returns at once; nil is nobody. The tensors sent must
    /// not be written before `wait` has returned.
    ///
    /// Every rank makes the call, with a message also where it sends none, and what one sends to a rank that rank expects from it.
    ///
    /// - Parameter hop: which hop around the ring this is, for errors; nil where it is none of a series.
    func startShift(_ message: Message, to receiver: Int?, from sender: Int?, hop: Int?) throws -> any PendingShift

    /// Starts to send `message` to every rank and to receive theirs, and returns at once. The tensors sent must not be written
    /// before `wait` has returned.
    func startAllGather(_ message: Message) throws -> any PendingGather

    /// The sum over all ranks, added in the order of ranks, so that every rank gets the same bits.
    func allReduce(_ tensor: Tensor) throws -> Tensor

    /// This rank's rows of the sum over all ranks, added in the order of ranks: piece `rank` of `size` of the first axis
    /// (`Range.piece`), which is any number of rows.
    func reduceScatter(_ tensor: Tensor) throws -> Tensor

    /// Sends message i to rank i and returns what the ranks sent here, in their order.
    func allToAll(_ messages: [Message]) throws -> [Message]

    /// The same where this rank knows the shapes that each rank sends here: what else arrives is an error.
    func allToAll(_ messages: [Message], expecting shapes: (_ sender: Int) -> [[Int]]) throws -> [Message]

    /// The message of rank `root`; the others' own is ignored.
    func broadcast(_ message: Message, from root: Int) throws -> Message

    /// Returns when every rank has called it.
    func barrier() throws

    /// A communicator among the ranks that gave the same color, ordered by their rank here.
    func split(color: Int) throws -> any Communicator

    /// The same where every rank knows the color of all others.
    func split(by color: (_ rank: Int) -> Int) throws -> any Communicator

    /// Messages and bytes sent by this rank so far, for the ledger of traffic; those in groups that were split from this one too.
    var traffic: Traffic { get }
}

/// A message on its way from this rank, and one to it.
public protocol PendingShift: Sendable {
    /// Returns what arrived; nil where nothing was expected. Call it exactly once.
    func wait() throws -> Message?
}

/// Rotation under way.
public struct PendingRotation: Sendable {
    fileprivate let shift: any PendingShift

    /// Returns what rank - 1 sent. Call it exactly once.
    public func wait() throws -> Message {
        guard let message = try shift.wait() else {
            fatalError("startRotate: a communicator gave nothing for a message")
        }
        return message
    }
}

/// A gathering under way.
public protocol PendingGather: Sendable {
    /// Returns every rank's message, in the order of ranks. Call it exactly once.
    func wait() throws -> [Message]
}

/// What a rank has sent.
public struct Traffic: Sendable, Hashable {
    public var messages = 0
    public var bytes = 0

    public init(messages: Int = 0, bytes: Int = 0) {
        self.messages = messages
        self.bytes = bytes
    }

    public static func - (a: Traffic, b: Traffic) -> Traffic {
        Traffic(messages: a.messages - b.messages, bytes: a.bytes - b.bytes)
    }
}

extension Communicator {
    /// Starts to send `message` to rank + 1 and to receive from rank - 1, around the ring.
    public func startRotate(_ message: Message, hop: Int? = nil) throws -> PendingRotation {
        PendingRotation(
            shift: try startShift(message, to: (rank + 1) % size, from: (rank + size - 1) % size, hop: hop))
    }

    public func split(by color: (_ rank: Int) -> Int) throws -> any Communicator { try split(color: color(rank)) }

    public func allToAll(_ messages: [Message], expecting shapes: (_ sender: Int) -> [[Int]]) throws -> [Message] {
        let received = try allToAll(messages)
        for (sender, message) in received.enumerated() {
            let arrived = message.tensors.map(\.shape)
            if arrived != shapes(sender) {
                throw RingZooError(
                    .interrupted,
                    "ranks disagree in allToAll: rank \(rank) expected \(shapes(sender)) from rank \(sender), got \(arrived)"
                )
            }
        }
        return received
    }

    /// Every rank's message, in the order of ranks.
    public func allGather(_ message: Message) throws -> [Message] { try startAllGather(message).wait() }

    /// The sum of one number over all ranks.
    public func allReduce(_ value: Double) throws -> Double {
        if size == 1 { return value }
        return try allReduce(Tensor([value], on: device)).item
    }
}

extension Range<Int> {
    /// Piece `index` of `parts` consecutive pieces of 0 ..< count, which differ by one element at most.
    public static func piece(_ index: Int, of parts: Int, count: Int) -> Range<Int> {
        count * index / parts..<count * (index + 1) / parts
    }
}
