import Synchronization
import TensorCore

/// An open checkpoint: verified, mapped, its tensors handed out without a copy.
///
/// Before libhdf5 sees a byte, the header, the manifest and HDF5's own bytes are verified by SHA-256; then libhdf5's
/// view of the file must agree with the manifest in every name, shape, type and place, with hard links and contiguous
/// data only. Tensor bytes are verified by CRC-32C, all at once or each when it is first read. Memory: the page cache
/// only.
public final class CheckpointReader: TensorCollection {
    /// When the sums of tensor bytes are checked.
    public enum Verification: Sendable {
        /// All of them while opening; reads the whole file.
        case everything
        /// Each when it is first asked for.
        case whenRead
    }

    public let path: String
    public let tensors: [TensorInfo]
    /// Small texts saved beside the tensors: config, tokenizer, step, ...
    public let metadata: [String: String]

    private let file: MappedFile
    private let manifest: CheckpointManifest
    private let indices: [String: Int]
    private let verified: Mutex<[Bool]>

    /// Errors: `missingInput`, `inputOutput`, and `corruptInput` naming the file and the part that is damaged or not
    /// allowed.
    public init(
        _ path: String, verify: Verification = .everything, fileSystem: any FileSystem = POSIXFileSystem()
    ) throws {
        let file = try fileSystem.map(path)
        self.path = path
        self.file = file
        let manifest = try Self.verify(file.bytes, tensorBytes: verify == .everything, path: path)
        self.manifest = manifest
        try Self.checkHDF5(file.bytes, against: manifest, path: path)
        tensors = manifest.tensors.map(\.info)
        indices = Dictionary(uniqueKeysWithValues: tensors.indices.map { (manifest.tensors[$0].info.name, $0) })
        verified = Mutex(tensors.map { _ in verify == .everything })
        var metadata: [String: String] = [:]
        for entry in manifest.metadata {
            let text = UnsafeRawBufferPointer(rebasing: file.bytes[entry.range])
            guard let text = String(validating: text, as: UTF8.self) else {
                throw RingZooError(.corruptInput, "\(path): metadata \(entry.name) is not UTF-8")
            }
            metadata[entry.name] = text
        }
        self.metadata = metadata
    }

    /// The bytes of a tensor: pages of the file, aligned to 4096.
    public func bytes(of name: String) throws -> TensorBytes {
        guard let index = indices[name] else {
            throw RingZooError(
                .missingInput, "\(path) has no tensor \(name)",
                tried: ["it has \(tensors.count) tensors, among them \(examples)"])
        }
        let tensor = manifest.tensors[index]
        // Two threads may verify the same tensor at once; that costs time, not truth.
        if !verified.withLock({ $0[index] }) {
            try Self.verify(tensor, in: file.bytes, path: path)
            verified.withLock { $0[index] = true }
        }
        return file.part(tensor.range)
    }

    private var examples: String { tensors.prefix(5).map(\.name).joined(separator: ", ") }

    /// Verifies every sum of a file image, without libhdf5.
    @discardableResult
    static func verify(_ file: UnsafeRawBufferPointer, tensorBytes: Bool, path: String) throws -> CheckpointManifest {
        let header = try CheckpointHeader(verifying: file, path: path)
        let text = UnsafeRawBufferPointer(
            rebasing: file[header.manifestOffset..<header.manifestOffset + header.manifestSize])
        guard SHA256.digest(text) == header.manifestSHA256 else {
            throw RingZooError(.corruptInput, "\(path): the manifest is damaged (its SHA-256 differs)")
        }
        let manifest = try CheckpointManifest(parsing: text, header: header, path: path)
        var sum = SHA256()
        for range in manifest.structureRanges(header) { sum.add(UnsafeRawBufferPointer(rebasing: file[range])) }
        guard sum.finish() == manifest.structureSHA256 else {
            throw RingZooError(
                .corruptInput, "\(path): the HDF5 structure or the metadata is damaged (its SHA-256 differs)")
        }
        if tensorBytes { for tensor in manifest.tensors { try verify(tensor, in: file, path: path) } }
        return manifest
    }

    private static func verify(
        _ tensor: CheckpointManifest.Tensor, in file: UnsafeRawBufferPointer, path: String
    ) throws {
        let bytes = UnsafeRawBufferPointer(rebasing: file[tensor.range])
        guard crc32c(bytes) == tensor.crc32c else {
            throw RingZooError(.corruptInput, "\(path): tensor \(tensor.info.name) is damaged (its CRC-32C differs)")
        }
        try checkBooleans(bytes, tensor.info, in: path)
    }

    /// libhdf5 must see exactly what the manifest says, or other tools would read other numbers than we do.
    static func checkHDF5(
        _ file: UnsafeRawBufferPointer, against manifest: CheckpointManifest, path: String
    ) throws {
        let contents = try HDF5Contents(file, path: path)
        func fault(_ object: String, _ what: String) -> RingZooError {
            RingZooError(.corruptInput, "\(path): \(object): \(what)")
        }
        if let (object, reason) = contents.refused.first { throw fault(object, reason) }
        var expected: [String: (type: HDF5Type, shape: [Int], offset: Int?)] = [:]
        for tensor in manifest.tensors {
            expected[CheckpointFormat.tensorPath(tensor.info.name)] = (
                .tensor(tensor.info.dtype), tensor.info.shape, tensor.info.byteCount == 0 ? nil : tensor.offset
            )
        }
        for entry in manifest.metadata where entry.byteCount > 0 {
            expected[CheckpointFormat.metadataPath(entry.name)] = (.string(entry.byteCount), [], entry.offset)
        }
        var groups: Set<String> = []
        for set in contents.dataSets {
            var parent = splitPath(set.path).directory
            while parent != "/", groups.insert(parent).inserted { parent = splitPath(parent).directory }
            // The manifest itself was found by the header; an empty text keeps one null byte that the manifest does
            // not count.
            if set.path == CheckpointFormat.manifestPath { continue }
            if set.type == .string(1), set.path.hasPrefix("/metadata/"),
                manifest.metadata.contains(where: {
                    $0.byteCount == 0 && CheckpointFormat.metadataPath($0.name) == set.path
                })
            {
                continue
            }
            guard let want = expected.removeValue(forKey: set.path) else {
                throw fault(set.path, "HDF5 lists a data set that the manifest does not")
            }
            guard want.type == set.type, want.shape == set.shape, set.storage == .contiguous(offset: want.offset) else {
                throw fault(set.path, "HDF5 and the manifest differ in type, shape or place")
            }
        }
        if let missing = expected.keys.min() { throw fault(missing, "HDF5 does not list what the manifest does") }
        if let extra = contents.groups.first(where: { !groups.contains($0) }) {
            throw fault(extra, "HDF5 lists a group that the manifest does not")
        }
    }
}
