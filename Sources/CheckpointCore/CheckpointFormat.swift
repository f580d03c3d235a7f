import TensorCore

/// What a checkpoint file is made of; `Docs/Checkpoints.md` is the description for other implementations.
///
/// Bytes 0..<4096 are the header (HDF5 calls the place the user block). The HDF5 file behind it holds `/manifest`
/// (JSON), `/tensors/...` and `/metadata/...`. Each byte of the file is under exactly one sum: the header under its
/// own SHA-256, the manifest under the one in the header, each tensor under a CRC-32C in the manifest, and all other
/// bytes (HDF5's own, metadata, gaps) under a SHA-256 in the manifest.
enum CheckpointFormat {
    static let version = 1
    static let headerSize = 4096
    static let magic: [UInt8] = [0x89] + Array("RZCK\r\n".utf8) + [0x1a]
    static let manifestPath = "/manifest"
    static let hdf5Signature: [UInt8] = [0x89] + Array("HDF\r\n".utf8) + [0x1a, 0x0a]

    /// `/tensors/` and the name with its dots as slashes.
    static func tensorPath(_ name: String) -> String {
        "/tensors/" + name.split(separator: ".", omittingEmptySubsequences: false).joined(separator: "/")
    }

    static func metadataPath(_ name: String) -> String { "/metadata/" + name }

    /// Why a name cannot be stored, or nil.
    static func fault(inTensorName name: String) -> String? {
        if name.isEmpty { return "it is empty" }
        if name.utf8.contains(0) { return "it holds a null character" }
        if name.contains("/") { return "it holds a slash (parts are separated by dots)" }
        if name.split(separator: ".", omittingEmptySubsequences: false).contains(where: \.isEmpty) {
            return "a part between its dots is empty"
        }
        return nil
    }

    static func fault(inMetadataName name: String) -> String? {
        if name.isEmpty { return "it is empty" }
        if name.utf8.contains(0) { return "it holds a null character" }
        if name.contains("/") || name == "." || name == ".." { return "it is a path" }
        return nil
    }
}

/// The first 4096 bytes of a checkpoint.
struct CheckpointHeader: Equatable {
    var fileSize: Int
    var manifestOffset: Int
    var manifestSize: Int
    var manifestSHA256: [UInt8]

    private static let sumOffset = CheckpointFormat.headerSize - 32

    func encoded() -> [UInt8] {
        var bytes = CheckpointFormat.magic
        func append(_ value: UInt64, count: Int) {
            for i in 0..<count { bytes.append(UInt8(truncatingIfNeeded: value >> (8 * UInt64(i)))) }
        }
        append(UInt64(CheckpointFormat.version), count: 4)
        append(UInt64(CheckpointFormat.headerSize), count: 4)
        append(UInt64(fileSize), count: 8)
        append(UInt64(manifestOffset), count: 8)
        append(UInt64(manifestSize), count: 8)
        bytes += manifestSHA256
        bytes += [UInt8](repeating: 0, count: Self.sumOffset - bytes.count)
        return bytes + bytes.withUnsafeBytes { SHA256.digest($0) }
    }

    /// Reads and verifies the header of a file. Errors: `corruptInput`.
    init(verifying file: UnsafeRawBufferPointer, path: String) throws {
        func fault(_ what: String, _ tried: String...) -> RingZooError {
            RingZooError(.corruptInput, "\(path): \(what)", tried: tried)
        }
        guard file.count >= CheckpointFormat.headerSize else {
            if file.starts(with: CheckpointFormat.hdf5Signature) { throw Self.foreign(path) }
            throw fault("too short for a checkpoint (\(file.count) bytes)")
        }
        let header = UnsafeRawBufferPointer(rebasing: file[..<CheckpointFormat.headerSize])
        guard header.starts(with: CheckpointFormat.magic) else {
            if header.starts(with: CheckpointFormat.hdf5Signature) { throw Self.foreign(path) }
            throw fault("not a RingZoo checkpoint: its first bytes are something else")
        }
        guard
            SHA256.digest(UnsafeRawBufferPointer(rebasing: header[..<Self.sumOffset])).elementsEqual(
                header[Self.sumOffset...])
        else { throw fault("the header is damaged (its SHA-256 differs)") }
        func integer(_ offset: Int, _ count: Int) -> UInt64 {
            (0..<count).reduce(0) { $0 | UInt64(header[offset + $1]) << (8 * UInt64($1)) }
        }
        guard integer(8, 4) == UInt64(CheckpointFormat.version), integer(12, 4) == UInt64(CheckpointFormat.headerSize)
        else {
            throw fault(
                "written in checkpoint format \(integer(8, 4)); this build reads format \(CheckpointFormat.version)",
                "use the RingZoo version that wrote it")
        }
        guard integer(16, 8) == UInt64(file.count) else {
            throw fault("\(file.count) bytes long, but written with \(integer(16, 8)): cut off or appended to")
        }
        guard let offset = Int(exactly: integer(24, 8)), let size = Int(exactly: integer(32, 8)),
            offset >= header.count,
            size > 0, offset <= file.count, size <= file.count - offset
        else { throw fault("the manifest is said to lie outside the file") }
        self.init(
            fileSize: file.count, manifestOffset: offset, manifestSize: size, manifestSHA256: Array(header[40..<72]))
    }

    init(fileSize: Int, manifestOffset: Int, manifestSize: Int, manifestSHA256: [UInt8]) {
        self.fileSize = fileSize
        self.manifestOffset = manifestOffset
        self.manifestSize = manifestSize
        self.manifestSHA256 = manifestSHA256
    }

    private static func foreign(_ path: String) -> RingZooError {
        RingZooError(
            .corruptInput, "\(path): an HDF5 file, but not a RingZoo checkpoint",
            tried: ["HDF5File.readForeign opens it without the guarantee that its bytes are whole"])
    }
}

/// The list of everything in a checkpoint, with its place and sum.
struct CheckpointManifest: Equatable {
    struct Tensor: Equatable {
        var info: TensorInfo
        /// 0 for a tensor without elements.
        var offset: Int
        var crc32c: UInt32

        var range: Range<Int> { offset..<offset + info.byteCount }
    }

    struct Metadata: Equatable {
        var name: String
        /// 0 for an empty text.
        var offset: Int
        var byteCount: Int

        var range: Range<Int> { offset..<offset + byteCount }
    }

    var tensors: [Tensor]
    var metadata: [Metadata]
    var structureSHA256: [UInt8]

    /// The JSON text. `placeholders` writes the widest possible numbers instead, to learn how much room to reserve.
    func encoded(placeholders: Bool = false) -> [UInt8] {
        func place(_ offset: Int) -> String { placeholders ? "\(Int.max)" : "\(offset)" }
        func hexadecimal32(_ crc: UInt32) -> String {
            hexadecimal((0..<4).map { UInt8(truncatingIfNeeded: crc >> (24 - 8 * UInt32($0))) })
        }
        var text = "{\"format\":\"ringzoo-checkpoint\",\"version\":\(CheckpointFormat.version),\n"
        text += "\"structureSHA256\":\"\(hexadecimal(structureSHA256))\",\n\"metadata\":["
        text += metadata.map { entry in
            "\n{\"name\":\(JSON.quoted(entry.name)),\"offset\":\(place(entry.offset)),\"byteCount\":\(entry.byteCount)}"
        }.joined(separator: ",")
        text += "],\n\"tensors\":["
        text += tensors.map { tensor in
            let shape = tensor.info.shape.map(String.init).joined(separator: ",")
            return
                "\n{\"name\":\(JSON.quoted(tensor.info.name)),\"dtype\":\"\(tensor.info.dtype.rawValue)\",\"shape\":[\(shape)],"
                + "\"offset\":\(place(tensor.offset)),\"byteCount\":\(tensor.info.byteCount),\"crc32c\":\"\(hexadecimal32(tensor.crc32c))\"}"
        }.joined(separator: ",")
        return Array((text + "]}\n").utf8)
    }

    init(tensors: [Tensor], metadata: [Metadata], structureSHA256: [UInt8]) {
        self.tensors = tensors
        self.metadata = metadata
        self.structureSHA256 = structureSHA256
    }

    /// Parses and checks a manifest whose SHA-256 is right; it may still have been made by an enemy. Errors:
    /// `corruptInput`.
    init(parsing bytes: UnsafeRawBufferPointer, header: CheckpointHeader, path: String) throws {
        func fault(_ what: String) -> RingZooError { RingZooError(.corruptInput, "\(path): manifest: \(what)") }
        let json: JSON
        do { json = try JSON(parsing: bytes) } catch { throw fault("\(error)") }
        guard json["format"]?.text == "ringzoo-checkpoint", json["version"]?.int == CheckpointFormat.version,
            let sum = json["structureSHA256"]?.text, sum.utf8.count == 64,
            let metadataList = json["metadata"]?.elements, let tensorList = json["tensors"]?.elements
        else { throw fault("a field is missing or of the wrong kind") }

        // Every place must be a page of its own inside the file.
        var runs: [(start: Int, end: Int, name: String)] = [
            (header.manifestOffset, header.manifestOffset + header.manifestSize, "the manifest")
        ]
        func checkPlace(_ offset: Int, _ count: Int, _ name: String) throws {
            if count == 0 {
                guard offset == 0 else { throw fault("\(name) has no bytes, but an offset") }
                return
            }
            guard offset >= CheckpointFormat.headerSize, offset % 4096 == 0, offset <= header.fileSize,
                count <= header.fileSize - offset
            else { throw fault("\(name): \(count) bytes at offset \(offset) are not inside the file, on a page") }
            runs.append((offset, offset + count, name))
        }
        var names: Set<String> = []
        tensors = try tensorList.map { entry in
            guard let name = entry["name"]?.text, let dtype = entry["dtype"]?.text, let shape = entry["shape"]?.ints,
                let offset = entry["offset"]?.int, let byteCount = entry["byteCount"]?.int,
                let crc = entry["crc32c"]?.text, crc.utf8.count == 8, let crc32c = UInt32(crc, radix: 16)
            else { throw fault("the entry of a tensor is incomplete") }
            if let what = CheckpointFormat.fault(inTensorName: name) { throw fault("tensor name \"\(name)\": \(what)") }
            guard names.insert(name).inserted else { throw fault("tensor \(name) stands there twice") }
            guard let dtype = DType(rawValue: dtype) else { throw fault("tensor \(name): unknown type \(dtype)") }
            guard TensorInfo.byteCount(shape: shape, dtype: dtype) == byteCount else {
                throw fault("tensor \(name): shape \(shape) of \(dtype) is not \(byteCount) bytes")
            }
            try checkPlace(offset, byteCount, "tensor \(name)")
            return Tensor(info: TensorInfo(name: name, shape: shape, dtype: dtype), offset: offset, crc32c: crc32c)
        }
        names = []
        metadata = try metadataList.map { entry in
            guard let name = entry["name"]?.text, let offset = entry["offset"]?.int,
                let byteCount = entry["byteCount"]?.int,
                byteCount >= 0
            else { throw fault("the entry of a metadata text is incomplete") }
            if let what = CheckpointFormat.fault(inMetadataName: name) { throw fault("metadata \"\(name)\": \(what)") }
            guard names.insert(name).inserted else { throw fault("metadata \(name) stands there twice") }
            try checkPlace(offset, byteCount, "metadata \(name)")
            return Metadata(name: name, offset: offset, byteCount: byteCount)
        }
        runs.sort { $0.start < $1.start }
        for (before, after) in zip(runs, runs.dropFirst()) where after.start < before.end {
            throw fault("\(before.name) and \(after.name) share bytes")
        }
        structureSHA256 = []
        guard let digest = Self.bytes(hexadecimal: sum) else { throw fault("a sum is not hexadecimal") }
        structureSHA256 = digest
    }

    private static func bytes(hexadecimal text: String) -> [UInt8]? {
        let digits = text.utf8.map { Character(Unicode.Scalar($0)).hexDigitValue }
        guard digits.count % 2 == 0, !digits.contains(nil) else { return nil }
        return stride(from: 0, to: digits.count, by: 2).map { UInt8(digits[$0]! << 4 | digits[$0 + 1]!) }
    }

    /// The runs of the file that are neither header, manifest nor tensor, in order.
    func structureRanges(_ header: CheckpointHeader) -> [Range<Int>] {
        var taken = tensors.filter { !$0.range.isEmpty }.map(\.range)
        taken.append(header.manifestOffset..<header.manifestOffset + header.manifestSize)
        taken.sort { $0.lowerBound < $1.lowerBound }
        var ranges: [Range<Int>] = []
        var at = CheckpointFormat.headerSize
        for range in taken {
            if at < range.lowerBound { ranges.append(at..<range.lowerBound) }
            at = range.upperBound
        }
        if at < header.fileSize { ranges.append(at..<header.fileSize) }
        return ranges
    }
}
