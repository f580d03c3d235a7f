import DistributedCore
import TensorCore

/// A communicator whose calls are operations in the profile of its device, where that has a recorder. A rotation is two, and so is a
/// gathering: its start, and the wait for what arrives.
public struct RecordedCommunicator: Communicator {
    private let base: any Communicator

    public init(_ base: any Communicator) { self.base = base }

    public var name: String { base.name }
    public var rank: Int { base.rank }
    public var size: Int { base.size }
    public var device: any Device { base.device }
    public var traffic: Traffic { base.traffic }

    private func recorded<R>(_ name: String, _ bytes: Int, _ body: () throws -> R) rethrows -> R {
        let span = device.recorder?.open(name, bytes: Double(bytes))
        defer { span?.close() }
        return try body()
    }

    public func startShift(_ message: Message, to receiver: Int?, from sender: Int?, hop: Int?) throws
        -> any PendingShift
    {
        let bytes = receiver == nil ? 0 : message.byteCount
        return try recorded("rotate start", bytes) {
            let shift = try base.startShift(message, to: receiver, from: sender, hop: hop)
            return RecordedShift(base: shift, device: device, bytes: bytes)
        }
    }

    public func startAllGather(_ message: Message) throws -> any PendingGather {
        let bytes = message.byteCount * size
        return try recorded("allGather start", bytes) {
            RecordedGather(base: try base.startAllGather(message), device: device, bytes: bytes)
        }
    }

    public func allReduce(_ tensor: Tensor) throws -> Tensor {
        try recorded("allReduce", tensor.byteCount * size) { try base.allReduce(tensor) }
    }

    public func reduceScatter(_ tensor: Tensor) throws -> Tensor {
        try recorded("reduceScatter", tensor.byteCount) { try base.reduceScatter(tensor) }
    }

    public func allToAll(_ messages: [Message]) throws -> [Message] {
        try recorded("allToAll", messages.reduce(0) { $0 + $1.byteCount }) { try base.allToAll(messages) }
    }

    public func broadcast(_ message: Message, from root: Int) throws -> Message {
        try recorded("broadcast", message.byteCount) { try base.broadcast(message, from: root) }
    }

    public func barrier() throws { try recorded("barrier", 0) { try base.barrier() } }

    public func split(color: Int) throws -> any Communicator { RecordedCommunicator(try base.split(color: color)) }
}

private struct RecordedShift: PendingShift {
    let base: any PendingShift
    let device: any Device
    let bytes: Int

    func wait() throws -> Message? {
        let span = device.recorder?.open("rotate wait", bytes: Double(bytes))
        defer { span?.close() }
        return try base.wait()
    }
}

private struct RecordedGather: PendingGather {
    let base: any PendingGather
    let device: any Device
    let bytes: Int

    func wait() throws -> [Message] {
        let span = device.recorder?.open("allGather wait", bytes: Double(bytes))
        defer { span?.close() }
        return try base.wait()
    }
}
