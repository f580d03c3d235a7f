import DistributedCore
import TensorCore

/// The laws every communicator keeps, whatever carries its messages.
///
/// All ranks call `violations(of:)` at once, each with its own communicator; a communicator that spans processes calls it in every
/// process. What a rank should receive is a function of rank numbers alone, so each rank judges by itself and no check needs the
/// communicator it is checking.
public struct CommunicatorConformance {
    private let communicator: any Communicator
    private var found: [String] = []
    private var rank: Int { communicator.rank }
    private var size: Int { communicator.size }

    /// Runs every check.
    /// - Returns: what this rank found wrong, as sentences; empty when the communicator conforms.
    /// - Throws: what the communicator throws; no check provokes an error.
    public static func violations(of communicator: any Communicator) throws -> [String] {
        var run = CommunicatorConformance(communicator: communicator)
        try run.checkAll()
        // Groups within groups: the same laws hold among the even ranks and among the odd ones.
        let half = try communicator.split(color: communicator.rank % 2)
        run.expect(half.size == (communicator.size + 1 - communicator.rank % 2) / 2, "split gives \(half.size) ranks")
        run.expect(half.rank == communicator.rank / 2, "split orders by rank: rank \(half.rank) of the half")
        var inner = CommunicatorConformance(communicator: half)
        try inner.checkAll()
        return run.found + inner.found.map { "in a subgroup: " + $0 }
    }

    private init(communicator: any Communicator) { self.communicator = communicator }

    private mutating func checkAll() throws {
        try checkRotate()
        try checkRotationsInFlight()
        try checkRotateAroundTheRing()
        try checkShift()
        try checkAllGather()
        try checkAllReduce()
        try checkReduceScatter()
        try checkAllToAll()
        try checkBroadcast()
        try checkBarrier()
        try checkOwnership()
        try checkTraffic()
    }

    private mutating func expect(_ holds: Bool, _ law: @autoclosure () -> String) {
        if !holds { found.append("rank \(rank) of \(size): \(law())") }
    }

    /// The numbers that `rank` sends in the round with this label: no two messages of the suite are equal.
    private func numbers(_ rank: Int, _ round: Int, _ count: Int) -> [Float] {
        (0..<count).map { Float(rank * 1_000 + round * 10) + Float($0) / 8 }
    }

    private func tensor(_ rank: Int, _ round: Int, _ shape: [Int]) -> Tensor {
        Tensor(numbers(rank, round, shape.reduce(1, *)), shape, on: communicator.device)
    }

    private mutating func expect(_ tensor: Tensor, from rank: Int, _ round: Int, _ shape: [Int], _ what: String) {
        expect(tensor.shape == shape, "\(what): shape \(tensor.shape) from rank \(rank) instead of \(shape)")
        expect(tensor.dtype == .float32, "\(what): \(tensor.dtype) from rank \(rank) instead of float32")
        if tensor.shape == shape && tensor.dtype == .float32 {
            let wanted = numbers(rank, round, shape.reduce(1, *))
            expect(tensor.values(Float.self) == wanted, "\(what): wrong values from rank \(rank)")
        }
    }

    /// The shape of a message may differ from rank to rank, and be empty.
    private func unevenShape(_ rank: Int) -> [Int] { [rank % 3, 5 + rank] }

    // MARK: Rotation

    private mutating func checkRotate() throws {
        let previous = (rank + size - 1) % size
        // A permuted view travels as the tensor it stands for, not as the bytes under it.
        let view = tensor(rank, 1, [3, 4]).transposed()
        let message = Message([view, tensor(rank, 2, unevenShape(rank)), tensor(rank, 3, [])], integers: [rank, -7])
        let received = try communicator.startRotate(message).wait()
        expect(received.tensors.count == 3, "rotate: \(received.tensors.count) tensors instead of 3")
        expect(received.integers == [previous, -7], "rotate: integers \(received.integers)")
        guard received.tensors.count == 3 else { return }
        expect(received.tensors[0].transposed(), from: previous, 1, [3, 4], "rotate of a view")
        expect(received.tensors[1], from: previous, 2, unevenShape(previous), "rotate of uneven shapes")
        expect(received.tensors[2], from: previous, 3, [], "rotate of a scalar")

        let types: [DType] = [.float64, .bfloat16, .float16, .int32, .int64, .bool]
        let sent = types.map { Tensor([0, 1, Double(rank % 2), 1, 0], on: communicator.device).cast(to: $0) }
        let typed = try communicator.startRotate(Message(sent)).wait().tensors
        expect(typed.map(\.dtype) == types, "rotate: element types \(typed.map(\.dtype)) instead of \(types)")
        for tensor in typed {
            expect(tensor.doubles == [0, 1, Double(previous % 2), 1, 0], "rotate: values of \(tensor.dtype)")
        }
        let nothing = try communicator.startRotate(Message([])).wait()
        expect(nothing.tensors.isEmpty && nothing.integers.isEmpty, "rotate: an empty message arrives empty")
    }

    /// Several rotations may be under way, and each `wait` returns its own, in whatever order they are waited for.
    private mutating func checkRotationsInFlight() throws {
        let previous = (rank + size - 1) % size
        for order in [[0, 1, 2], [2, 0, 1]] {
            let pending = try (0..<3).map { try communicator.startRotate(Message([tensor(rank, 10 + $0, [4])])) }
            var received = [Message?](repeating: nil, count: 3)
            for index in order { received[index] = try pending[index].wait() }
            for (index, message) in received.enumerated() {
                expect(message!.tensors[0], from: previous, 10 + index, [4], "rotation \(index) of 3, order \(order)")
            }
        }
    }

    /// After `size` hops everything is home.
    private mutating func checkRotateAroundTheRing() throws {
        var message = Message([tensor(rank, 20, [2, 3])], integers: [rank])
        for hop in 1...size {
            message = try communicator.startRotate(message).wait()
            let origin = (rank + size * hop - hop) % size
            expect(message.integers == [origin], "hop \(hop): the message of rank \(message.integers)")
            expect(message.tensors[0], from: origin, 20, [2, 3], "hop \(hop)")
        }
    }

    /// Any rank to any other, and ranks that send, receive, both or neither; a rotation fits between.
    private mutating func checkShift() throws {
        let (opposite, last) = ((size - rank) % size, size - 1)
        let reversed = try communicator.startShift(
            Message([tensor(rank, 25, unevenShape(rank))]), to: opposite, from: opposite, hop: 0)
        // The last rank sends to the first, the others to nobody.
        let sends = size > 1 && rank == last
        let home = try communicator.startShift(
            Message([tensor(rank, 26, [2])]), to: sends ? 0 : nil, from: size > 1 && rank == 0 ? last : nil, hop: 1)
        let rotation = try communicator.startRotate(Message([tensor(rank, 27, [3])]))
        if let received = try reversed.wait() {
            expect(received.tensors[0], from: opposite, 25, unevenShape(opposite), "shift to the opposite rank")
        } else {
            expect(false, "shift: nothing from rank \(opposite)")
        }
        let received = try home.wait()
        expect((received != nil) == (size > 1 && rank == 0), "shift: a message for rank 0 alone")
        if let received { expect(received.tensors[0], from: last, 26, [2], "shift from the last rank to the first") }
        expect(
            try rotation.wait().tensors[0], from: (rank + size - 1) % size, 27, [3], "a rotation among shifts")
        let before = communicator.traffic
        _ = try communicator.startShift(Message([tensor(rank, 28, [3])]), to: nil, from: nil, hop: nil).wait()
        expect(communicator.traffic == before, "a shift to nobody counts as traffic")
    }

    // MARK: Collectives

    private mutating func checkAllGather() throws {
        let all = try communicator.allGather(
            Message([tensor(rank, 30, unevenShape(rank)), tensor(rank, 31, [2]).expanded(axis: 0)], integers: [rank]))
        expect(all.count == size, "allGather: \(all.count) messages")
        for (peer, message) in all.enumerated() {
            expect(message.integers == [peer], "allGather: integers of rank \(peer) are \(message.integers)")
            expect(message.tensors[0], from: peer, 30, unevenShape(peer), "allGather")
            expect(message.tensors[1], from: peer, 31, [1, 2], "allGather")
        }
    }

    /// Numbers whose sum depends on the order in which they are added.
    private func roundingNumbers(_ rank: Int, _ count: Int) -> [Float] {
        (0..<count).map { index in
            let power = [Float](arrayLiteral: 1, 0x1p12, 0x1p-12, 0x1p24)[(rank + index) % 4]
            return power * (1 + Float((rank * 7 + index * 3) % 11) / 7) * (rank % 2 == 0 ? 1 : -1)
        }
    }

    /// ((0 + rank 0) + rank 1) + ..., rounded after every addition: the same bits on every rank and on every machine.
    private func sumInOrder(_ count: Int) -> [Float] {
        (0..<size).reduce(into: [Float](repeating: 0, count: count)) { sum, rank in
            for (index, value) in roundingNumbers(rank, count).enumerated() { sum[index] += value }
        }
    }

    private mutating func checkAllReduce() throws {
        let device = communicator.device
        let own = Tensor(roundingNumbers(rank, 37), on: device)
        let sum = try communicator.allReduce(own)
        expect(sum.values(Float.self) == sumInOrder(37), "allReduce is not the sum in the order of ranks, to the bit")
        expect(own.values(Float.self) == roundingNumbers(rank, 37), "allReduce changed its operand")
        let matrix = try communicator.allReduce(tensor(0, 33, [2, 3]).transposed())
        let wanted = numbers(0, 33, 6).map { $0 * Float(size) }
        expect(matrix.shape == [3, 2], "allReduce: shape \(matrix.shape)")
        expect(matrix.transposed().values(Float.self) == wanted, "allReduce of a view")
        let nothing = try communicator.allReduce(Tensor.zeros([0, 4], on: device))
        expect(nothing.shape == [0, 4], "allReduce of nothing")
        let ranks = try communicator.allReduce(Double(rank + 1))
        expect(ranks == Double(size * (size + 1) / 2), "allReduce of a number: \(ranks)")
    }

    private mutating func checkReduceScatter() throws {
        let whole = Tensor(roundingNumbers(rank, size * 6), [size * 2, 3], on: communicator.device)
        let part = try communicator.reduceScatter(whole)
        expect(part.shape == [2, 3], "reduceScatter: shape \(part.shape)")
        let wanted = Array(sumInOrder(size * 6)[rank * 6..<(rank + 1) * 6])
        expect(part.values(Float.self) == wanted, "reduceScatter is not this rank's part of the sum in order")
    }

    private mutating func checkAllToAll() throws {
        // The message from a to b is labelled by both; some are empty, and some have no tensor at all.
        func label(_ from: Int, _ to: Int) -> Int { 40 + to % 7 + from % 3 }
        func tensors(_ from: Int, _ to: Int) -> Int { (from + to) % 3 }
        func shape(_ from: Int, _ to: Int) -> [Int] { [(from + 2 * to) % 4, 2] }
        let messages = (0..<size).map { to in
            Message(
                (0..<tensors(rank, to)).map { tensor(rank, label(rank, to) + $0, shape(rank, to)) },
                integers: [Int](repeating: rank * 100 + to, count: to % 3))
        }
        let received = try communicator.allToAll(messages)
        expect(received.count == size, "allToAll: \(received.count) messages")
        for (peer, message) in received.enumerated() {
            let count = tensors(peer, rank)
            expect(message.tensors.count == count, "allToAll: \(message.tensors.count) tensors from rank \(peer)")
            expect(
                message.integers == [Int](repeating: peer * 100 + rank, count: rank % 3),
                "allToAll: integers \(message.integers) from rank \(peer)")
            for (index, tensor) in message.tensors.enumerated() {
                expect(tensor, from: peer, label(peer, rank) + index, shape(peer, rank), "allToAll")
            }
        }
    }

    private mutating func checkBroadcast() throws {
        for root in 0..<size {
            let message = Message([tensor(rank, 60, [rank + 1, 2])], integers: [rank, 5])
            let received = try communicator.broadcast(message, from: root)
            expect(received.integers == [root, 5], "broadcast from \(root): integers \(received.integers)")
            expect(received.tensors[0], from: root, 60, [root + 1, 2], "broadcast from \(root)")
        }
    }

    private mutating func checkBarrier() throws {
        for _ in 0..<3 { try communicator.barrier() }
    }

    // MARK: Memory and traffic

    /// What was received is this rank's own: on its device, in storage no one else has, whatever the sender does afterwards.
    private mutating func checkOwnership() throws {
        let previous = (rank + size - 1) % size
        let sent = tensor(rank, 70, [64])
        let rotated = try communicator.startRotate(Message([sent])).wait().tensors[0]
        let gathered = try communicator.allGather(Message([sent])).map { $0.tensors[0] }
        let root = size - 1
        let told = try communicator.broadcast(Message([sent]), from: root).tensors[0]
        let swapped = try communicator.allToAll((0..<size).map { _ in Message([sent]) }).map { $0.tensors[0] }
        let sum = try communicator.allReduce(sent)
        // In place, as an optimizer would: every call above has returned, so the memory is the sender's again.
        communicator.device.fill(sent, with: -1)
        try communicator.barrier()
        var received = gathered + swapped
        if size > 1 {
            received.append(rotated)
            expect(rotated, from: previous, 70, [64], "rotate, after the sender wrote over what it sent")
            for peer in 0..<size where peer != rank {
                expect(gathered[peer], from: peer, 70, [64], "allGather, after the sender wrote over what it sent")
                expect(swapped[peer], from: peer, 70, [64], "allToAll, after the sender wrote over what it sent")
            }
            if rank != root {
                received.append(told)
                expect(told, from: root, 70, [64], "broadcast, after the sender wrote over what it sent")
            }
            let total = (0..<64).map { index in (0..<size).reduce(Float(0)) { $0 + numbers($1, 70, 64)[index] } }
            expect(sum.values(Float.self) == total, "allReduce, after the sender wrote over what it sent")
        }
        let isLocal = (received + [told, sum]).allSatisfy { $0.device === communicator.device }
        expect(isLocal, "received tensors are not on the receiver's device")
        let addresses = Set(received.map(\.storage.address))
        expect(addresses.count == received.count, "received tensors share storage")
    }

    /// A rotation is one message of the bytes of its tensors; what waits, and what only receives, sends nothing.
    private mutating func checkTraffic() throws {
        let (communicator, device, rank) = (communicator, communicator.device, communicator.rank)
        var before = communicator.traffic
        func since() -> Traffic {
            defer { before = communicator.traffic }
            return communicator.traffic - before
        }
        let message = Message(
            [tensor(rank, 80, [3, 5]), Tensor.zeros([7], .bfloat16, on: device)], integers: [1, 2, 3])
        let pending = try communicator.startRotate(message)
        _ = try pending.wait()
        var sent = since()
        expect(sent == Traffic(messages: 1, bytes: 3 * 5 * 4 + 7 * 2), "a rotation of 74 bytes counts as \(sent)")
        try communicator.barrier()
        sent = since()
        expect(sent.bytes == 0, "a barrier sends \(sent.bytes) bytes")
        _ = try communicator.broadcast(message, from: 0)
        sent = since()
        expect((sent.bytes > 0) == (rank == 0 && size > 1), "broadcast: rank \(rank) sends \(sent.bytes) bytes")
        let parts = (0..<size).map { Message([tensor(rank, 81, [$0 + 1])]) }
        _ = try communicator.allToAll(parts)
        sent = since()
        let others = parts.indices.reduce(0) { $1 == rank ? $0 : $0 + parts[$1].byteCount }
        expect(sent.bytes == others, "allToAll sends \(sent.bytes) bytes instead of the \(others) that go to others")
        if size == 1 {
            _ = try communicator.allReduce(message.tensors[0])
            _ = try communicator.allGather(message)
            sent = since()
            expect(sent.bytes == 0, "a group of one sends \(sent.bytes) bytes")
        }
    }
}
