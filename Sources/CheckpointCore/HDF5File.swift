import TensorCore

/// Plain HDF5 files: those of other programs, without header, manifest or sums.
public enum HDF5File {
    /// Opens any HDF5 file for reading its tensors. Nothing proves that the bytes are whole: only the whitelist
    /// protects.
    ///
    /// Errors: `missingInput`, `inputOutput`; `corruptInput` where libhdf5 cannot list the file.
    public static func readForeign(
        _ path: String, fileSystem: any FileSystem = POSIXFileSystem()
    ) throws -> ForeignHDF5File {
        try ForeignHDF5File(path, fileSystem: fileSystem)
    }

    /// Writes tensors as a plain HDF5 file that any HDF5 tool reads; complete and on the disk under its name, or not
    /// at all.
    ///
    /// A name is a path whose parts are separated by slashes ("q", "layer/0/q"). Errors: `usage` for names that
    /// cannot be stored, `inputOutput`.
    public static func write(
        _ path: String, tensors: [TensorSource], fileSystem: any FileSystem = POSIXFileSystem()
    ) throws {
        var names: Set<String> = []
        for source in tensors {
            let name = source.info.name
            let parts = name.split(separator: "/", omittingEmptySubsequences: false)
            guard !parts.contains(where: { $0.isEmpty || $0 == "." || $0 == ".." }), !name.utf8.contains(0) else {
                throw RingZooError(.usage, "\(path): \"\(name)\" is no name for a data set")
            }
            guard TensorInfo.byteCount(shape: source.info.shape, dtype: source.info.dtype) != nil else {
                throw RingZooError(.usage, "\(path): \(name) has the impossible shape \(source.info.shape)")
            }
            guard names.insert(name).inserted else { throw RingZooError(.usage, "\(path): \(name) is there twice") }
        }
        for name in names {
            for slash in name.indices where name[slash] == "/" && names.contains(String(name[..<slash])) {
                throw RingZooError(.usage, "\(path): \(name[..<slash]) and \(name) cannot both be stored")
            }
        }
        let skeleton = try HDF5Skeleton(
            tensors.map {
                HDF5Skeleton.DataSet(path: "/" + $0.info.name, type: .tensor($0.info.dtype), shape: $0.info.shape)
            }, userBlock: 0)
        let file = try AtomicFile(path: path, byteCount: skeleton.fileSize, fileSystem: fileSystem)
        do {
            for part in skeleton.parts { try part.bytes.withUnsafeBytes { try file.write($0, at: part.offset) } }
            for (source, offset) in zip(tensors, skeleton.offsets) {
                try source.streamChecked { try file.write($0, at: (offset ?? 0) + $1) }
            }
            try file.commit()
        } catch {
            file.abandon()
            throw error
        }
    }
}

/// An HDF5 file of another program, its tensors readable as far as a whitelist allows.
///
/// Allowed: hard links; contiguous data inside the file (mapped, no copy) and chunked data with shuffle, deflate and
/// fletcher32 (unpacked into memory); float16, bfloat16 (the 16-bit float, or the two opaque bytes of ml_dtypes),
/// float32, float64, int32, int64, and h5py's bool; little-endian; up to 8 axes. Everything else is listed in
/// `refused` and was neither followed nor read.
public final class ForeignHDF5File: TensorCollection {
    public let path: String
    /// Names are paths without the first slash.
    public let tensors: [TensorInfo]
    /// What is in the file but not allowed, and why.
    public let refused: [String: String]

    private let file: MappedFile
    private let dataSets: [String: HDF5Contents.DataSet]

    init(_ path: String, fileSystem: any FileSystem) throws {
        self.path = path
        file = try fileSystem.map(path)
        let contents = try HDF5Contents(file.bytes, path: path)
        var tensors: [TensorInfo] = []
        var dataSets: [String: HDF5Contents.DataSet] = [:]
        var refused = Dictionary(contents.refused.map { (String($0.path.dropFirst()), $0.reason) }) { first, _ in first
        }
        for set in contents.dataSets {
            let name = String(set.path.dropFirst())
            guard case .tensor(let dtype) = set.type else {
                refused[name] = "it is text or bytes, not a tensor"
                continue
            }
            tensors.append(TensorInfo(name: name, shape: set.shape, dtype: dtype))
            dataSets[name] = set
        }
        self.tensors = tensors
        self.dataSets = dataSets
        self.refused = refused
    }

    /// The bytes of a tensor; a first slash in the name is ignored. Contiguous data is aligned as the file has it.
    public func bytes(of name: String) throws -> TensorBytes {
        let name = name.hasPrefix("/") ? String(name.dropFirst()) : name
        if let reason = refused[name] { throw RingZooError(.corruptInput, "\(path): \(name) is refused: \(reason)") }
        guard let set = dataSets[name], case .tensor(let dtype) = set.type else {
            // A refused link or group above the name is the better answer.
            for (parent, reason) in refused where name.hasPrefix(parent + "/") {
                throw RingZooError(.corruptInput, "\(path): \(name) is refused: \(parent): \(reason)")
            }
            let known = tensors.prefix(8).map(\.name).joined(separator: ", ")
            throw RingZooError(.missingInput, "\(path) has no data set \(name)", tried: ["it has \(known)"])
        }
        let result: TensorBytes
        switch set.storage {
        case .contiguous(let offset): result = file.part((offset ?? 0)..<(offset ?? 0) + set.byteCount)
        case .chunked: result = try HDF5Contents.read(set, of: file.bytes, path: path)
        }
        let info = TensorInfo(name: name, shape: set.shape, dtype: dtype)
        try result.withUnsafeBytes { try checkBooleans($0, info, in: path) }
        return result
    }
}
