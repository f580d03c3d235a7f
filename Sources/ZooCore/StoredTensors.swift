import CheckpointCore
import Foundation
import TensorCore

/// A file or folder of tensors of any form that can be read here, for looking into it.
public struct StoredTensors: Sendable {
    public enum Form: String, Sendable, Hashable {
        /// Ours: everything is under a sum.
        case checkpoint
        /// An HDF5 file of another program.
        case hdf5
        /// One file, or a folder of shards.
        case safetensors
    }

    public let form: Form
    public let tensors: [TensorInfo]
    /// Small texts stored beside the tensors, by name.
    public let texts: [String: String]
    /// What is there but cannot be read, and why.
    public let refused: [String: String]

    /// Reads and checks headers; the bytes of tensors are not looked at.
    ///
    /// - Throws: `.missingInput`, `.inputOutput`; `.corruptInput` for damage, and for a file of no known form.
    public init(_ path: String) throws {
        var isFolder: ObjCBool = false
        guard FileManager.default.fileExists(atPath: path, isDirectory: &isFolder) else {
            throw RingZooError(.missingInput, "\(path): no such file or folder")
        }
        if isFolder.boolValue || path.hasSuffix(".safetensors") {
            let reader = try SafetensorsReader(path)
            form = .safetensors
            (tensors, texts) = (reader.tensors, reader.metadata)
            refused = reader.unsupported.mapValues { "its type, \($0), has no use here" }
        } else if try Self.firstBytes(path) == Self.hdf5Signature {
            let file = try HDF5File.readForeign(path)
            form = .hdf5
            (tensors, texts, refused) = (file.tensors, [:], file.refused)
        } else {
            let reader = try CheckpointReader(path, verify: .whenRead)
            form = .checkpoint
            (tensors, texts, refused) = (reader.tensors, reader.metadata, [:])
        }
    }

    /// Bytes of all tensors.
    public var byteCount: Int { tensors.reduce(0) { $0 + $1.byteCount } }

    private static let hdf5Signature = Data([0x89, 0x48, 0x44, 0x46, 0x0d, 0x0a, 0x1a, 0x0a])

    private static func firstBytes(_ path: String) throws -> Data {
        do {
            let handle = try FileHandle(forReadingFrom: URL(fileURLWithPath: path))
            defer { try? handle.close() }
            return try handle.read(upToCount: hdf5Signature.count) ?? Data()
        } catch {
            throw RingZooError(.inputOutput, "\(path): the file cannot be read", underlying: error)
        }
    }
}
