import Foundation
import Synchronization
import TensorCore

/// Ranks as threads of this process, each with a device of its own.
///
/// They are real threads: on a shared pool a blocking wait can keep the rank it waits for from running.
public enum InProcessRanks {
    /// Runs `body` on `count` ranks at once and returns their results in the order of ranks.
    ///
    /// - Parameters:
    ///   - threads: worker threads in total; each rank's device gets max(1, threads / count).
    ///   - deadline: seconds a rank waits for a silent peer.
    /// - Throws: the first error that a rank threw; the others end with an error that names it, none hangs.
    public static func run<Result: Sendable>(
        _ count: Int, threads: Int? = nil, deadline: Double = 60,
        _ body: @escaping @Sendable (any Communicator, CPUDevice) throws -> Result
    ) throws -> [Result] {
        if count < 1 { fatalError("InProcessRanks: at least one rank wanted, got \(count)") }
        let perRank = max(1, (threads ?? CPUDevice.defaultThreads) / count)
        let group = InProcessGroup(size: count, deadline: deadline)
        let outcome = Mutex<(results: [Result?], failure: (any Error)?)>(([Result?](repeating: nil, count: count), nil))
        @Sendable func runRank(_ rank: Int) {
            let device = CPUDevice(name: count == 1 ? "cpu" : "cpu:\(rank)", threads: perRank)
            do {
                let result = try body(InProcessCommunicator(group, rank: rank, device: device), device)
                outcome.withLock { $0.results[rank] = result }
            } catch {
                outcome.withLock { if $0.failure == nil { $0.failure = error } }
                group.abort("rank \(rank) failed: \(error)")
            }
        }
        let finished = Monitor(1)
        for rank in 1..<max(1, count) {
            let thread = Thread {
                runRank(rank)
                finished.update { $0 += 1 }
            }
            thread.stackSize = 16 << 20
            thread.name = "rank \(rank)"
            thread.start()
        }
        runRank(0)
        _ = finished.wait(until: .infinity) { $0 == count ? true : nil }
        let (results, failure) = outcome.withLock { ($0.results, $0.failure) }
        if let failure { throw failure }
        return results.map { $0! }
    }
}

/// The meeting place of in-process ranks: what each has offered, by operation number, until all who want it have copied it.
final class InProcessGroup: Sendable {
    let size: Int
    /// Seconds.
    let deadline: Double

    struct State {
        /// Per operation: what each rank offers, and how many have finished with it.
        var offers: [Int: [Message?]] = [:]
        var finished: [Int: [Bool]] = [:]
        var failure: String?
        var subgroups: [[Int]: InProcessGroup] = [:]
    }
    let state = Monitor(State())

    init(size: Int, deadline: Double, failure: String? = nil) {
        self.size = size
        self.deadline = deadline
        if let failure { state.update { $0.failure = failure } }
    }

    func abort(_ why: String) {
        let subgroups = state.update { state in
            if state.failure == nil { state.failure = why }
            return Array(state.subgroups.values)
        }
        for group in subgroups { group.abort(why) }
    }
}

final class InProcessCommunicator: Communicator {
    let name = "threads"
    let rank: Int
    let size: Int
    let device: any Device
    private let group: InProcessGroup
    private let counters = Mutex((operation: 0, traffic: Traffic()))

    init(_ group: InProcessGroup, rank: Int, device: any Device) {
        self.group = group
        self.rank = rank
        self.device = device
        size = group.size
    }

    var traffic: Traffic { counters.withLock { $0.traffic } }

    private func nextOperation() -> Int {
        counters.withLock { counters in
            counters.operation += 1
            return counters.operation
        }
    }

    private func count(_ messages: Int, _ bytes: Int) {
        counters.withLock { counters in
            counters.traffic.messages += messages
            counters.traffic.bytes += bytes
        }
    }

    // MARK: The one mechanism: offer, take, leave

    /// Peers read what is offered from their own threads, so strided tensors are packed here, by the rank that owns them.
    private func offer(_ operation: Int, _ message: Message) {
        let message = Message(message.tensors.map { $0.detached.contiguous() }, integers: message.integers)
        group.state.update { state in
            state.offers[operation, default: [Message?](repeating: nil, count: size)][rank] = message
            if state.finished[operation] == nil { state.finished[operation] = [Bool](repeating: false, count: size) }
        }
    }

    /// Waits for what `peer` offers and copies it to this rank's device. `bytes` is what this rank offers, for the error.
    private func take(_ operation: Int, from peer: Int, _ what: String, _ bytes: Int) throws -> Message {
        let deadline = MonotonicClock.seconds + group.deadline
        let offered = try group.state.wait(until: deadline) { state -> Message? in
            if let message = state.offers[operation]?[peer] { return message }
            if let failure = state.failure { throw self.lost(what, peer, operation, bytes, failure) }
            return nil
        }
        guard let offered else {
            throw lost(what, peer, operation, bytes, "nothing arrived within \(group.deadline) s")
        }
        return copy(offered)
    }

    private func copy(_ message: Message) -> Message {
        let tensors = message.tensors.map { source in
            let target = Tensor(uninitialised: source.shape, source.dtype, on: device)
            source.withBytes { device.write($0, into: target) }
            return target
        }
        return Message(tensors, integers: message.integers)
    }

    /// Says that this rank has taken what it wants from the operation; the last one to leave clears it.
    private func leave(_ operation: Int) {
        group.state.update { state in
            state.finished[operation]?[rank] = true
            if state.finished[operation]?.allSatisfy({ $0 }) == true {
                state.offers[operation] = nil
                state.finished[operation] = nil
            }
        }
    }

    /// Waits until `peer` no longer needs what this rank offered, so that its memory may be reused.
    private func waitUntilTaken(_ operation: Int, by peer: Int, _ what: String, _ bytes: Int) throws {
        let deadline = MonotonicClock.seconds + group.deadline
        let taken = try group.state.wait(until: deadline) { state -> Bool? in
            guard let finished = state.finished[operation] else { return true }
            if finished[peer] { return true }
            if let failure = state.failure { throw self.lost(what, peer, operation, bytes, failure) }
            return nil
        }
        if taken == nil {
            throw lost(what, peer, operation, bytes, "they were not taken within \(group.deadline) s")
        }
    }

    private func withdraw(_ operation: Int) {
        group.state.update { $0.offers[operation]?[rank] = nil }
    }

    private func lost(_ what: String, _ peer: Int, _ operation: Int, _ bytes: Int, _ why: String) -> RingZooError {
        RingZooError(
            .interrupted,
            "rank \(rank) lost rank \(peer) in \(what) (operation \(operation), \(bytes) bytes sent): \(why)")
    }

    // MARK: Rotation

    private struct Rotation: PendingRotation {
        let communicator: InProcessCommunicator
        let operation: Int
        let bytes: Int

        func wait() throws -> Message {
            let c = communicator
            let received = try c.take(operation, from: (c.rank + c.size - 1) % c.size, "rotate", bytes)
            c.leave(operation)
            try c.waitUntilTaken(operation, by: (c.rank + 1) % c.size, "rotate", bytes)
            c.withdraw(operation)
            return received
        }
    }

    func startRotate(_ message: Message) throws -> any PendingRotation {
        let operation = nextOperation()
        count(1, message.byteCount)
        offer(operation, message)
        return Rotation(communicator: self, operation: operation, bytes: message.byteCount)
    }

    // MARK: Collectives

    func allGather(_ message: Message) throws -> [Message] {
        try exchange(message, "allGather", sending: message.byteCount * (size - 1)) { self.copy($0[$1]) }
    }

    /// Every rank offers a message; `read` picks from all of them what this rank wants of each. `sending` is how many bytes of the
    /// message are for others, over all of them; nil for a rank that only receives.
    private func exchange<R>(
        _ message: Message, _ what: String, sending: Int?, _ read: ([Message], Int) throws -> R
    ) throws -> [R] {
        let operation = nextOperation()
        if let sending { count(size - 1, sending) }
        offer(operation, message)
        let deadline = MonotonicClock.seconds + group.deadline
        let all = try group.state.wait(until: deadline) { state -> [Message]? in
            let offers = state.offers[operation]!
            if let missing = offers.firstIndex(where: { $0 == nil }) {
                if let failure = state.failure { throw self.lost(what, missing, operation, message.byteCount, failure) }
                return nil
            }
            return offers.map { $0! }
        }
        guard let all else {
            let missing = group.state.update { $0.offers[operation]!.firstIndex { $0 == nil } ?? rank }
            throw lost(
                what, missing, operation, message.byteCount, "nothing arrived within \(group.deadline) s")
        }
        let result = try (0..<size).map { try read(all, $0) }
        leave(operation)
        for peer in 0..<size where peer != rank { try waitUntilTaken(operation, by: peer, what, message.byteCount) }
        return result
    }

    func allReduce(_ tensor: Tensor) throws -> Tensor {
        if size == 1 { return tensor }
        // Peers read the offer while this rank sums, so the sum has memory of its own.
        let sum = Tensor.zeros(tensor.shape, tensor.dtype, on: device)
        _ = try exchange(Message([tensor]), "allReduce", sending: tensor.byteCount * (size - 1)) { all, peer in
            try self.add(all[peer].tensors[0], into: sum, "allReduce", peer)
        }
        return sum
    }

    func reduceScatter(_ tensor: Tensor) throws -> Tensor {
        if tensor.shape.first.map({ $0 % size }) != 0 {
            shapeFault("reduceScatter", "the first extent must be a multiple of \(size) ranks", tensor)
        }
        let rows = tensor.shape[0] / size
        let sum = Tensor.zeros([rows] + tensor.shape.dropFirst(), tensor.dtype, on: device)
        _ = try exchange(Message([tensor]), "reduceScatter", sending: tensor.byteCount - sum.byteCount) { all, peer in
            let part = all[peer].tensors[0].slice(axis: 0, self.rank * rows..<(self.rank + 1) * rows)
            try self.add(part, into: sum, "reduceScatter", peer)
        }
        return sum
    }

    private func add(_ part: Tensor, into sum: Tensor, _ what: String, _ peer: Int) throws {
        if part.shape != sum.shape || part.dtype != sum.dtype {
            throw RingZooError(
                .interrupted,
                "rank \(rank) and rank \(peer) disagree in \(what): \(sum.dtype)\(sum.shape) here, \(part.dtype)\(part.shape) there"
            )
        }
        device.binary(.add, sum, part, into: sum)
    }

    func allToAll(_ messages: [Message]) throws -> [Message] {
        if messages.count != size { fatalError("allToAll: \(messages.count) messages for \(size) ranks") }
        // One offer holds the messages to all ranks, one after another; integers say where each begins.
        var integers = [Int]()
        for message in messages { integers += [message.tensors.count, message.integers.count] }
        let packed = Message(
            messages.flatMap(\.tensors), integers: integers + messages.flatMap(\.integers))
        let sending = packed.byteCount - messages[rank].byteCount
        return try exchange(packed, "allToAll", sending: sending) { all, peer in
            let sent = all[peer]
            let counts = sent.integers.prefix(2 * self.size)
            let tensorStart = (0..<self.rank).reduce(0) { $0 + counts[2 * $1] }
            let integerStart = (0..<self.rank).reduce(2 * self.size) { $0 + counts[2 * $1 + 1] }
            return self.copy(
                Message(
                    Array(sent.tensors[tensorStart..<tensorStart + counts[2 * self.rank]]),
                    integers: Array(sent.integers[integerStart..<integerStart + counts[2 * self.rank + 1]])))
        }
    }

    func broadcast(_ message: Message, from root: Int) throws -> Message {
        let own = rank == root ? message : Message([])
        let received = try exchange(own, "broadcast", sending: rank == root ? own.byteCount * (size - 1) : nil) {
            all, peer in
            peer == root && self.rank != root ? self.copy(all[peer]) : Message([])
        }
        return rank == root ? message : received[root]
    }

    func barrier() throws { _ = try exchange(Message([]), "barrier", sending: 0) { _, _ in } }

    func split(color: Int) throws -> any Communicator {
        let colors = try exchange(Message([], integers: [color]), "split", sending: 0) { all, peer in
            all[peer].integers[0]
        }
        let members = colors.indices.filter { colors[$0] == color }
        let key = [counters.withLock { $0.operation }] + members
        let subgroup = group.state.update { state in
            if let existing = state.subgroups[key] { return existing }
            // What failed before the subgroup existed has to end it too.
            let made = InProcessGroup(size: members.count, deadline: group.deadline, failure: state.failure)
            state.subgroups[key] = made
            return made
        }
        return InProcessCommunicator(subgroup, rank: members.firstIndex(of: rank)!, device: device)
    }
}
