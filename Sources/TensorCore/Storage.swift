/// What a piece of device memory is for. The ledger keeps the kinds apart, since the context law is about `.working` memory
/// alone: weights, gradients and optimizer state do not depend on the context.
public enum MemoryKind: Int, Sendable, CaseIterable {
    case working, parameters, gradients, optimizer
}

/// A piece of a device's memory; returns to its device when the last tensor that views it is gone.
///
/// `@unchecked Sendable`: the bytes are written before the storage is shared, or in place while it is uniquely referenced
/// (`Tensor.makeUnique`); `kind` is changed only through the device's ledger, under its lock.
public final class Storage: @unchecked Sendable {
    public let device: any Device
    /// Where the bytes are, in the device's own address space; the host may read it only on a device with host memory.
    public let address: UnsafeMutableRawPointer
    public let byteCount: Int
    /// Changed through `reclassify(as:)` alone.
    public internal(set) var kind: MemoryKind

    public init(device: any Device, address: UnsafeMutableRawPointer, byteCount: Int, kind: MemoryKind) {
        self.device = device
        self.address = address
        self.byteCount = byteCount
        self.kind = kind
    }

    /// Moves these bytes to another line of the ledger.
    public func reclassify(as kind: MemoryKind) {
        if kind == self.kind { return }
        device.ledger.move(byteCount, from: self.kind, to: kind)
        self.kind = kind
    }

    deinit { device.release(address: address, byteCount: byteCount, kind: kind) }
}
