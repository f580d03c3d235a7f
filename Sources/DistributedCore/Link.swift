import TensorCore

/// Carries packets from rank to rank, in order: the part of a communicator that differs between threads and processes.
///
/// `LinkCommunicator` makes a `Communicator` of it; collectives, sums, deadlines and checks are there, once for every link.
public protocol Link: Sendable {
    var name: String { get }
    var rank: Int { get }
    var size: Int { get }
    /// Where received tensors are made.
    var device: any Device { get }

    /// Starts to send and returns at once. Packets to one peer arrive in the order of these calls. The transfer is over when the
    /// tensors may be written again.
    ///
    /// - Parameter peer: another rank than this one.
    func startSend(_ packet: Packet, to peer: Int) -> any Transfer<Void>

    /// Starts to receive the next packet from a peer that no earlier call has asked for, and returns at once.
    func startReceive(from peer: Int) -> any Transfer<Packet>

    /// The same link among some of its ranks, `members` of this group in their new order.
    ///
    /// - Parameter context: keeps its packets apart from those of every other group of this rank.
    func subgroup(_ members: [Int], context: Int) -> any Link

    /// Hears what this rank waits for, and nil when it no longer does, so that a process which is ended from outside can say so.
    func isWaiting(for what: String?)
}

extension Link {
    public func isWaiting(for what: String?) {}
}

/// Something under way between two ranks.
public protocol Transfer<Value>: Sendable {
    associatedtype Value: Sendable

    /// Waits until it is over; nil when the deadline (`MonotonicClock` seconds) passed first. Its value is given out once.
    /// - Throws: `LinkFailure` when it never will be.
    func wait(until deadline: Double) throws -> Value?
}

/// What a link carries: a header that says what it is, and contiguous tensors.
public struct Packet: Sendable {
    /// The words of a `PacketHeader`.
    public var header: [Int64]
    public var tensors: [Tensor]
    /// Bytes of the tensors that have arrived; fewer than they have when the rest was lost.
    public var arrivedBytes: Int

    public init(header: [Int64], tensors: [Tensor], arrivedBytes: Int? = nil) {
        self.header = header
        self.tensors = tensors
        self.arrivedBytes = arrivedBytes ?? tensors.reduce(0) { $0 + $1.byteCount }
    }
}

/// Why a transfer cannot end well, in words that follow "rank 1 lost rank 0 in ...: ".
public struct LinkFailure: Error, Sendable, CustomStringConvertible {
    public var description: String
    /// What kind of error it is for everyone: that of the rank at fault, where it could say so.
    public var code: RingZooError.Code

    public init(_ description: String, code: RingZooError.Code = .interrupted) {
        (self.description, self.code) = (description, code)
    }

    /// The failure that other ranks hear of when `rank` throws `error`.
    public init(ofRank rank: Int, _ error: any Error) {
        self.init("rank \(rank) failed: \(error)", code: (error as? RingZooError)?.code ?? .failed)
    }
}
