import Synchronization
import TensorCore

/// Writes one checkpoint file: it appears under its name complete, verified and on the disk, or not at all.
///
/// All space is reserved at the start, so a full disk shows before any tensor is written. Any thread may then write
/// any slice of any tensor (ranks write their shards at the same time); `commit` fails unless the slices cover each
/// tensor exactly once. Memory: the skeleton and the metadata, a few kilobytes; tensor bytes are never held. Equal
/// input gives equal bytes.
public final class CheckpointWriter: Sendable {
    private struct Slice {
        var offset: Int
        var count: Int
        var crc32c: UInt32
    }

    private let file: AtomicFile
    private let header: CheckpointHeader
    private let draft: CheckpointManifest
    private let indices: [String: Int]
    private let slices: Mutex<[[Slice]]>

    /// Plans the file, reserves its space and writes everything but the tensors.
    ///
    /// Tensor names are parts separated by dots. Errors: `usage` for names or shapes that cannot be stored,
    /// `inputOutput` for the disk.
    public init(
        _ path: String, tensors: [TensorInfo], metadata: [String: String] = [:],
        fileSystem: any FileSystem = POSIXFileSystem()
    ) throws {
        indices = try Self.check(tensors, metadata, path)
        let texts = metadata.sorted { $0.key < $1.key }
        let blank = CheckpointManifest(
            tensors: tensors.map { CheckpointManifest.Tensor(info: $0, offset: 0, crc32c: 0) },
            metadata: texts.map {
                CheckpointManifest.Metadata(name: $0.key, offset: 0, byteCount: $0.value.utf8.count)
            },
            structureSHA256: [UInt8](repeating: 0, count: 32))
        let manifestSize = blank.encoded(placeholders: true).count

        typealias DataSet = HDF5Skeleton.DataSet
        let sets =
            [DataSet(path: CheckpointFormat.manifestPath, type: .bytes, shape: [manifestSize])]
            + texts.map { name, text in
                // HDF5 has no string of length 0; one null byte reads as the empty text everywhere.
                DataSet(path: CheckpointFormat.metadataPath(name), type: .string(max(1, text.utf8.count)), shape: [])
            }
            + tensors.map {
                DataSet(path: CheckpointFormat.tensorPath($0.name), type: .tensor($0.dtype), shape: $0.shape)
            }
        let skeleton = try HDF5Skeleton(sets, userBlock: CheckpointFormat.headerSize)

        var draft = blank
        for i in texts.indices where draft.metadata[i].byteCount > 0 {
            draft.metadata[i].offset = skeleton.offsets[1 + i] ?? 0
        }
        for i in tensors.indices { draft.tensors[i].offset = skeleton.offsets[1 + texts.count + i] ?? 0 }
        header = CheckpointHeader(
            fileSize: skeleton.fileSize, manifestOffset: skeleton.offsets[0] ?? 0, manifestSize: manifestSize,
            manifestSHA256: [])

        let known =
            (skeleton.parts
            + zip(draft.metadata, texts).filter { $0.0.byteCount > 0 }
            .map { HDF5Skeleton.Part(offset: $0.0.offset, bytes: Array($0.1.value.utf8)) })
            .sorted { $0.offset < $1.offset }
        draft.structureSHA256 = Self.sum(known, draft.structureRanges(header))
        self.draft = draft
        slices = Mutex(tensors.map { _ in [] })

        file = try AtomicFile(path: path, byteCount: skeleton.fileSize, fileSystem: fileSystem)
        for part in known { try part.bytes.withUnsafeBytes { try file.write($0, at: part.offset) } }
    }

    /// Writes bytes `offset..<offset + bytes.count` of a tensor. Thread-safe; slices may come in any order, each once.
    public func write(_ bytes: UnsafeRawBufferPointer, to name: String, at offset: Int = 0) throws {
        guard let index = indices[name] else { fatalError("CheckpointWriter.write: no tensor \(name) was announced") }
        let tensor = draft.tensors[index]
        guard offset >= 0, offset <= tensor.info.byteCount, bytes.count <= tensor.info.byteCount - offset else {
            fatalError(
                "CheckpointWriter.write: \(bytes.count) bytes at \(offset) do not fit the \(tensor.info.byteCount) of \(name)"
            )
        }
        // Small pieces: the sum finds in the cache what the copy into the file is about to read.
        let pieceSize = 1 << 20
        var crc: UInt32 = 0
        for start in stride(from: 0, to: bytes.count, by: pieceSize) {
            let piece = UnsafeRawBufferPointer(rebasing: bytes[start..<min(start + pieceSize, bytes.count)])
            crc = crc32c(piece, from: crc)
            try file.write(piece, at: tensor.offset + offset + start)
        }
        if bytes.count > 0 {
            let slice = Slice(offset: offset, count: bytes.count, crc32c: crc)
            slices.withLock { $0[index].append(slice) }
        }
    }

    /// Seals the file, brings it to the disk and gives it its name. Errors: `usage` when a tensor is not covered
    /// exactly, `inputOutput`.
    public func commit() throws {
        var manifest = draft
        let slices = slices.withLock { $0 }
        for index in manifest.tensors.indices {
            let info = manifest.tensors[index].info
            var end = 0
            var crc: UInt32 = 0
            for slice in slices[index].sorted(by: { $0.offset < $1.offset }) {
                guard slice.offset == end else {
                    throw RingZooError(
                        .usage,
                        "\(file.path): tensor \(info.name): the bytes between \(end) and \(slice.offset) "
                            + (slice.offset > end ? "were not written" : "were written twice"))
                }
                crc = crc32cOfJoined(crc, slice.crc32c, slice.count)
                end += slice.count
            }
            guard end == info.byteCount else {
                throw RingZooError(
                    .usage, "\(file.path): tensor \(info.name): \(end) of its \(info.byteCount) bytes were written")
            }
            manifest.tensors[index].crc32c = crc
        }
        var text = manifest.encoded()
        // The room was reserved for the widest numbers; JSON allows spaces at its end.
        text += [UInt8](repeating: UInt8(ascii: " "), count: header.manifestSize - text.count)
        var header = header
        header.manifestSHA256 = text.withUnsafeBytes { SHA256.digest($0) }
        try text.withUnsafeBytes { try file.write($0, at: header.manifestOffset) }
        try header.encoded().withUnsafeBytes { try file.write($0, at: 0) }
        try file.commit()
    }

    /// Gives up and removes the unfinished file; what had the name before stays. Also happens when the writer goes
    /// away uncommitted.
    public func abandon() { file.abandon() }

    /// Writes a whole checkpoint, one tensor after another.
    public static func save(
        _ path: String, tensors: [TensorSource], metadata: [String: String] = [:],
        fileSystem: any FileSystem = POSIXFileSystem()
    ) throws {
        let writer = try CheckpointWriter(
            path, tensors: tensors.map(\.info), metadata: metadata, fileSystem: fileSystem)
        do {
            for source in tensors {
                try source.streamChecked { bytes, offset in
                    try writer.write(bytes, to: source.info.name, at: offset)
                }
            }
            try writer.commit()
        } catch {
            writer.abandon()
            throw error
        }
    }

    private static func check(
        _ tensors: [TensorInfo], _ metadata: [String: String], _ path: String
    ) throws -> [String: Int] {
        var indices: [String: Int] = [:]
        for (index, info) in tensors.enumerated() {
            func fault(_ what: String) -> RingZooError {
                RingZooError(.usage, "\(path): tensor \"\(info.name)\" cannot be stored: \(what)")
            }
            if let what = CheckpointFormat.fault(inTensorName: info.name) { throw fault(what) }
            guard TensorInfo.byteCount(shape: info.shape, dtype: info.dtype) != nil else {
                throw fault("its shape \(info.shape) is impossible")
            }
            guard indices.updateValue(index, forKey: info.name) == nil else { throw fault("the name is there twice") }
        }
        // "a" cannot be a tensor and the group of "a.b" at once.
        for info in tensors {
            var name = info.name[...]
            while let dot = name.lastIndex(of: ".") {
                name = name[..<dot]
                if indices[String(name)] != nil {
                    throw RingZooError(
                        .usage, "\(path): tensors \"\(name)\" and \"\(info.name)\" cannot both be stored")
                }
            }
        }
        for name in metadata.keys {
            if let what = CheckpointFormat.fault(inMetadataName: name) {
                throw RingZooError(.usage, "\(path): metadata \"\(name)\" cannot be stored: \(what)")
            }
        }
        return indices
    }

    /// SHA-256 over ranges of the file to be, of which only `known` is not zero.
    private static func sum(_ known: [HDF5Skeleton.Part], _ ranges: [Range<Int>]) -> [UInt8] {
        var sum = SHA256()
        var parts = known[...]
        for range in ranges {
            var at = range.lowerBound
            while let part = parts.first, part.offset < range.upperBound {
                sum.addZeros(part.offset - at)
                part.bytes.withUnsafeBytes { sum.add($0) }
                at = part.offset + part.bytes.count
                parts = parts.dropFirst()
            }
            sum.addZeros(range.upperBound - at)
        }
        return sum.finish()
    }
}

extension TensorSource {
    /// Streams with running offsets, and refuses a source that hands out too much or too little.
    func streamChecked(_ sink: (UnsafeRawBufferPointer, _ offset: Int) throws -> Void) throws {
        var offset = 0
        let total = info.byteCount
        func fault(_ count: String) -> RingZooError {
            RingZooError(.internalFailure, "tensor \(info.name): its source gave \(count) than its \(total) bytes")
        }
        try stream { bytes in
            guard bytes.count <= total - offset else { throw fault("more") }
            try sink(bytes, offset)
            offset += bytes.count
        }
        if offset != total { throw fault("fewer (\(offset))") }
    }
}
