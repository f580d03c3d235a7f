import TensorCore

extension LinkCommunicator {
    /// Sums of up to so many bytes are exchanged whole: one round of messages instead of two.
    static let smallSum = 4096
    /// Bytes of a large sum that are exchanged at a time: what a rank holds beside operand and result is no more than this.
    static let sumSegment = 32 << 20

    private var others: [Int] { (0..<size).filter { $0 != rank } }

    /// Sends a message to each other rank (nil: none), receives one from each of `senders`, and hands them to `read` in the order of
    /// ranks; this rank's own is handed out without a copy.
    private func exchange(
        _ call: Call, _ message: (_ peer: Int) -> Message?, from senders: [Int]? = nil,
        _ read: (_ peer: Int, Message) throws -> Void
    ) throws {
        let senders = senders ?? Array(0..<size)
        let receiving = senders.map { $0 == rank ? nil : receive(from: $0, call) }
        let sending = others.compactMap { peer in message(peer).map { send($0, to: peer, call) } }
        for (peer, receiving) in zip(senders, receiving) {
            if let received = try receiving?.wait() ?? message(peer) { try read(peer, received) }
        }
        for sending in sending { try sending.wait() }
    }

    public func startAllGather(_ message: Message) throws -> any PendingGather {
        gather(message, begin(.allGather, bytes: message.byteCount * (size - 1)))
    }

    private func gather(_ message: Message, _ call: Call) -> Gather {
        Gather(
            communicator: self, own: message,
            receiving: (0..<size).map { $0 == rank ? nil : receive(from: $0, call) },
            sending: others.map { send(message, to: $0, call) })
    }

    private struct Gather: PendingGather {
        let communicator: LinkCommunicator
        let own: Message
        let receiving: [Receiving?]
        let sending: [Sending]

        func wait() throws -> [Message] {
            let all = try receiving.map { try $0?.wait() ?? communicator.copy(own) }
            for sending in sending { try sending.wait() }
            return all
        }
    }

    public func allToAll(_ messages: [Message]) throws -> [Message] {
        if messages.count != size { fatalError("allToAll: \(messages.count) messages for \(size) ranks") }
        let bytes = others.reduce(0) { $0 + messages[$1].byteCount }
        var all: [Message] = []
        try exchange(begin(.allToAll, bytes: bytes), { messages[$0] }) { peer, received in
            all.append(peer == rank ? copy(received) : received)
        }
        return all
    }

    public func broadcast(_ message: Message, from root: Int) throws -> Message {
        let bytes = rank == root ? message.byteCount * (size - 1) : 0
        var result = message
        try exchange(
            begin(.broadcast, bytes: bytes), { _ in rank == root ? message : nil }, from: [root]
        ) { result = $1 }
        return result
    }

    public func barrier() throws { try exchange(begin(.barrier), { _ in Message([]) }) { _, _ in } }

    public func split(color: Int) throws -> any Communicator {
        let answers = try gather(Message([], integers: [color, contexts.next]), begin(.split)).wait().map(\.integers)
        let context = answers.map { $0[1] }.max()!
        contexts.use(context)
        let members = answers.indices.filter { answers[$0][0] == color }
        return LinkCommunicator(link.subgroup(members, context: context), rules, contexts, splitFrom: self)
    }

    // MARK: Sums, in the order of ranks

    public func allReduce(_ tensor: Tensor) throws -> Tensor {
        if size == 1 { return tensor }
        let own = tensor.detached.contiguous()
        let sum = Tensor.zeros(tensor.shape, tensor.dtype, on: device)
        let isSmall = tensor.byteCount <= Self.smallSum
        let bytes = tensor.byteCount * (size - 1)
        let call = begin(.allReduce, bytes: isSmall ? bytes : 2 * bytes / size)
        if isSmall {
            try exchange(call, { _ in Message([own]) }) { peer, received in
                try add(received.tensors[0], into: sum, call, peer)
            }
            return sum
        }
        let (flat, flatSum) = (own.flattened(), sum.flattened())
        let step = Self.sumSegment / tensor.dtype.byteCount
        for start in stride(from: 0, to: flat.elementCount, by: step) {
            let count = min(step, flat.elementCount - start)
            // Each rank sums one piece, and all collect the pieces.
            let pieces = (0..<size).map { index in
                let piece = Range.piece(index, of: size, count: count)
                return start + piece.lowerBound..<start + piece.upperBound
            }
            let mine = flatSum.slice(axis: 0, pieces[rank])
            try exchange(call, { Message([flat.slice(axis: 0, pieces[$0])], integers: tensor.shape) }) {
                peer, received in
                if received.integers != tensor.shape { throw disagreement(tensor.shape, received.integers, call, peer) }
                try add(received.tensors[0], into: mine, call, peer)
            }
            try exchange(call, { _ in Message([mine]) }) { peer, received in
                if peer != rank { device.copy(received.tensors[0], into: flatSum.slice(axis: 0, pieces[peer])) }
            }
        }
        return sum
    }

    public func reduceScatter(_ tensor: Tensor) throws -> Tensor {
        guard let rows = tensor.shape.first else { shapeFault("reduceScatter", "at least one axis wanted", tensor) }
        let own = tensor.detached.contiguous()
        let pieces = (0..<size).map { Range.piece($0, of: size, count: rows) }
        let sum = Tensor.zeros([pieces[rank].count] + tensor.shape.dropFirst(), tensor.dtype, on: device)
        let call = begin(.reduceScatter, bytes: tensor.byteCount - sum.byteCount)
        try exchange(call, { Message([own.slice(axis: 0, pieces[$0])]) }) { peer, received in
            try add(received.tensors[0], into: sum, call, peer)
        }
        return sum
    }

    private func add(_ part: Tensor, into sum: Tensor, _ call: Call, _ peer: Int) throws {
        if part.dtype != sum.dtype {
            throw lost(peer, call, "ranks disagree in \(call.operation): \(sum.dtype) here, \(part.dtype) there")
        }
        if part.shape != sum.shape { throw disagreement(sum.shape, part.shape, call, peer) }
        device.binary(.add, sum, part, into: sum)
    }

    private func disagreement(_ here: [Int], _ there: [Int], _ call: Call, _ peer: Int) -> RingZooError {
        lost(peer, call, "ranks disagree in \(call.operation): \(here) here, \(there) there")
    }
}
