import CMPIShim
import DistributedCore
import TensorCore

/// How packets become messages of MPI. Touched by the progress thread alone.
///
/// A packet is an envelope (two words: how many words the header has, and the tag of the payload, 0 where it is in the envelope; then
/// the header) and the payload. A small payload goes in the envelope. A large one follows it: the receiver has to know shapes before it
/// can receive into the tensors themselves, and a buffer to unpack from would be one more key/value pair in memory. Small tensors
/// share a message; a large one has its own, because MPI copies bytes that lie together from process to process in one go, and all
/// others in small pieces through a buffer.
enum Wire {
    /// Bytes of the largest envelope.
    static let envelopeSize = 16384
    /// Bytes of a tensor that is worth a message of its own.
    static let largeTensor = 1 << 18
    /// To all ranks of the job: why this one failed.
    static let failureTag = 1

    /// Envelopes of a group arrive in order under its tag. (MPI promises tags up to 32767; two groups of a rank meet in one tag only with
    /// thousands of others between them.)
    static func envelopeTag(_ context: Int) -> Int { 2 + context % 16000 }

    /// Each payload has a tag of its own: of two envelopes that are there, the receiver may open the later one first.
    static func payloadTag(_ ticket: Int) -> Int { 16384 + ticket % 16000 }

    /// A failure as it travels: its code, a line break, its description.
    static func bytes(_ failure: LinkFailure) -> [UInt8] { Array("\(failure.code.rawValue)\n\(failure)".utf8) }

    static func failure(_ bytes: some Collection<UInt8>) -> LinkFailure {
        let parts = String(decoding: bytes, as: UTF8.self).split(separator: "\n", maxSplits: 1)
        let code = parts.first.flatMap { RingZooError.Code(rawValue: String($0)) }
        return LinkFailure(parts.last.map(String.init) ?? "it did not say why", code: code ?? .interrupted)
    }
}

/// Where a transfer stands.
enum TransferState {
    case waiting
    /// Something happened; more will.
    case advanced
    case done(Packet?)
    case failed(LinkFailure)
}

/// A transfer that the progress thread moves on.
protocol ActiveTransfer: AnyObject {
    var ticket: Int { get }
    /// Whether a payload is on its way, which moves a little with every look.
    var movesPayload: Bool { get }
    func poll() -> TransferState
}

/// One message, and the memory it is in.
final class WireMessage {
    private var transfer = rz_mpi_transfer()
    private(set) var isOver = false
    private(set) var arrivedBytes = 0

    enum Direction { case send, receive }

    init(_ direction: Direction, _ pieces: [rz_mpi_piece], peer: Int, tag: Int) throws {
        let code =
            switch direction {
            case .send: rz_mpi_send(pieces, Int32(pieces.count), Int32(peer), Int32(tag), &transfer)
            case .receive: rz_mpi_receive(pieces, Int32(pieces.count), Int32(peer), Int32(tag), &transfer)
            }
        try Self.check(code)
    }

    /// True when this call found it over.
    func poll() throws -> Bool {
        if isOver { return false }
        var (done, bytes): (Int32, Int) = (0, 0)
        try Self.check(rz_mpi_test(&transfer, &done, &bytes))
        isOver = done != 0
        arrivedBytes = bytes
        return isOver
    }

    func cancel() { _ = rz_mpi_cancel(&transfer) }

    private static func check(_ code: Int32) throws {
        if code != 0 { throw LinkFailure("MPI says: \(String(cString: rz_mpi_error_text(code)))") }
    }
}

/// The bytes of a packet's tensors: where they lie, or a copy of them on the host.
final class Payload {
    let tensors: [Tensor]
    private let staging: [UnsafeMutableRawBufferPointer]
    private let pieces: [rz_mpi_piece]

    init(_ tensors: [Tensor], isSent: Bool) {
        self.tensors = tensors
        var staging: [UnsafeMutableRawBufferPointer] = []
        pieces = tensors.filter { $0.byteCount > 0 }.map { tensor in
            if tensor.device.hasHostMemory { return rz_mpi_piece(address: tensor.address, count: tensor.byteCount) }
            let copy = UnsafeMutableRawBufferPointer.allocate(byteCount: tensor.byteCount, alignment: 64)
            staging.append(copy)
            if isSent { tensor.device.read(tensor, into: copy) }
            return rz_mpi_piece(address: copy.baseAddress, count: copy.count)
        }
        self.staging = staging
    }

    deinit { for copy in staging { copy.deallocate() } }

    /// The pieces of each message, none of which is larger than `limit` bytes.
    func messages(limit: Int) -> [[rz_mpi_piece]] {
        var messages: [[rz_mpi_piece]] = []
        var room = 0
        for piece in pieces {
            if piece.count >= Wire.largeTensor { room = 0 }
            var start = 0
            while start < piece.count {
                if room == 0 {
                    messages.append([])
                    room = limit
                }
                let part = min(room, piece.count - start)
                messages[messages.count - 1].append(rz_mpi_piece(address: piece.address + start, count: part))
                start += part
                room -= part
            }
            if piece.count >= Wire.largeTensor { room = 0 }
        }
        return messages
    }

    /// After a receive: brings what lies on the host to the tensors.
    func deliver() {
        guard !staging.isEmpty else { return }
        for (tensor, copy) in zip(tensors.filter { $0.byteCount > 0 }, staging) {
            tensor.device.write(UnsafeRawBufferPointer(copy), into: tensor)
        }
    }
}

/// A packet on its way out; over when its memory may be written again.
final class Outgoing: ActiveTransfer {
    let ticket: Int
    private let envelope: UnsafeMutableRawBufferPointer
    private let payload: Payload
    private var messages: [WireMessage] = []
    var movesPayload: Bool { messages.count > 1 }

    init(_ packet: Packet, ticket: Int, peer: Int, context: Int, messageLimit: Int) throws {
        self.ticket = ticket
        payload = Payload(packet.tensors, isSent: true)
        let headBytes = 8 * (2 + packet.header.count)
        if headBytes > Wire.envelopeSize {
            throw LinkFailure("a header of \(headBytes) bytes; \(Wire.envelopeSize) at most can be sent")
        }
        let isWhole = headBytes + packet.arrivedBytes <= min(Wire.envelopeSize, messageLimit)
        let bytes = headBytes + (isWhole ? packet.arrivedBytes : 0)
        envelope = UnsafeMutableRawBufferPointer.allocate(byteCount: bytes, alignment: 64)
        let payloadTag = Wire.payloadTag(ticket)
        let words = [Int64(packet.header.count), isWhole ? 0 : Int64(payloadTag)] + packet.header
        words.withUnsafeBytes { envelope.copyMemory(from: $0) }
        if isWhole {
            var end = headBytes
            for tensor in packet.tensors where tensor.byteCount > 0 {
                tensor.device.read(tensor, into: .init(rebasing: envelope[end..<end + tensor.byteCount]))
                end += tensor.byteCount
            }
        }
        messages.append(
            try WireMessage(
                .send, [rz_mpi_piece(address: envelope.baseAddress, count: bytes)], peer: peer,
                tag: Wire.envelopeTag(context)))
        if isWhole { return }
        for pieces in payload.messages(limit: messageLimit) {
            messages.append(try WireMessage(.send, pieces, peer: peer, tag: payloadTag))
        }
    }

    deinit { envelope.deallocate() }

    func poll() -> TransferState {
        do {
            var advanced = false
            for message in messages where try message.poll() { advanced = true }
            if messages.allSatisfy(\.isOver) { return .done(nil) }
            return advanced ? .advanced : .waiting
        } catch {
            return .failed(error as? LinkFailure ?? LinkFailure("\(error)"))
        }
    }
}

/// A packet on its way in.
final class Incoming: ActiveTransfer {
    let ticket: Int
    private let peer: Int
    private let device: any Device
    private let messageLimit: Int
    private let envelope: UnsafeMutableRawBufferPointer
    private let first: WireMessage
    /// From the moment the envelope is there.
    private var rest: (header: [Int64], payload: Payload, messages: [WireMessage])?
    var movesPayload: Bool { rest != nil }

    init(ticket: Int, peer: Int, context: Int, device: any Device, messageLimit: Int) throws {
        (self.ticket, self.peer, self.device, self.messageLimit) = (ticket, peer, device, messageLimit)
        envelope = .allocate(byteCount: Wire.envelopeSize, alignment: 64)
        first = try WireMessage(
            .receive, [rz_mpi_piece(address: envelope.baseAddress, count: Wire.envelopeSize)], peer: peer,
            tag: Wire.envelopeTag(context))
    }

    deinit { envelope.deallocate() }

    func poll() -> TransferState {
        do {
            guard let (header, payload, messages) = rest else {
                return try first.poll() ? try open() : .waiting
            }
            var advanced = false
            for message in messages where try message.poll() { advanced = true }
            if messages.allSatisfy(\.isOver) {
                payload.deliver()
                let arrived = messages.reduce(0) { $0 + $1.arrivedBytes }
                return .done(Packet(header: header, tensors: payload.tensors, arrivedBytes: arrived))
            }
            return advanced ? .advanced : .waiting
        } catch {
            return .failed(error as? LinkFailure ?? LinkFailure("\(error)"))
        }
    }

    private func open() throws -> TransferState {
        let bytes = UnsafeRawBufferPointer(rebasing: envelope[..<first.arrivedBytes])
        let words = bytes.prefix(bytes.count / 8 * 8).withUnsafeBytes { Array($0.bindMemory(to: Int64.self)) }
        guard words.count >= 2, let count = Int(exactly: words[0]), count >= 0, count <= words.count - 2 else {
            throw LinkFailure("its packet has no header")
        }
        let header = Array(words[2..<2 + count])
        // Whoever waits for the packet says what is wrong with its header.
        guard let parsed = try? PacketHeader(words: header) else { return .done(Packet(header: header, tensors: [])) }
        let tensors = parsed.parts.map { Tensor(uninitialised: $0.shape, $0.dtype, on: device) }
        if words[1] != 0 {
            let payload = Payload(tensors, isSent: false)
            let tag = Int(truncatingIfNeeded: words[1])
            let messages = try payload.messages(limit: messageLimit).map {
                try WireMessage(.receive, $0, peer: peer, tag: tag)
            }
            rest = (header, payload, messages)
            return .advanced
        }
        var start = 8 * (2 + count)
        for tensor in tensors {
            let end = min(bytes.count, start + tensor.byteCount)
            if end - start == tensor.byteCount { device.write(.init(rebasing: bytes[start..<end]), into: tensor) }
            start = end
        }
        return .done(Packet(header: header, tensors: tensors, arrivedBytes: start - 8 * (2 + count)))
    }
}
