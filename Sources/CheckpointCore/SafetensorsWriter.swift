import TensorCore

/// Writes the safetensors format, streaming: one file, or shards with an index.
public enum SafetensorsWriter {
    /// Writes one file; complete and on the disk under its name, or not at all.
    ///
    /// Tensors are laid out by falling element size, then by name, so each is aligned. Errors: `usage` for a name
    /// twice or an impossible shape, `inputOutput`.
    public static func write(
        _ path: String, tensors: [TensorSource], metadata: [String: String] = [:],
        fileSystem: any FileSystem = POSIXFileSystem()
    ) throws {
        try check(tensors, path)
        let ordered = tensors.sorted {
            ($1.info.dtype.byteCount, $0.info.name) < ($0.info.dtype.byteCount, $1.info.name)
        }
        var header = "{\"__metadata__\":{"
        // Readers of Hugging Face models want to be told which framework's layout this is; "pt" is the one they all
        // know.
        header += metadata.merging(["format": "pt"]) { given, _ in given }.sorted { $0.key < $1.key }
            .map { "\(JSON.quoted($0.key)):\(JSON.quoted($0.value))" }.joined(separator: ",")
        header += "}"
        var offsets: [Int] = []
        var end = 0
        for source in ordered {
            let info = source.info
            offsets.append(end)
            header += ",\(JSON.quoted(info.name)):{\"dtype\":\"\(SafetensorsFormat.name(of: info.dtype))\","
            header += "\"shape\":[\(info.shape.map(String.init).joined(separator: ","))],"
            header += "\"data_offsets\":[\(end),\(end + info.byteCount)]}"
            end += info.byteCount
        }
        header += "}"
        header += String(repeating: " ", count: (8 - header.utf8.count % 8) % 8)
        guard header.utf8.count <= SafetensorsFormat.maximumHeaderSize else {
            throw RingZooError(
                .usage, "\(path): the header would be \(header.utf8.count) bytes, more than the format allows (100 MB)")
        }
        var front: [UInt8] = []
        for i in 0..<8 { front.append(UInt8(truncatingIfNeeded: header.utf8.count >> (8 * i))) }
        front += Array(header.utf8)
        let file = try AtomicFile(path: path, byteCount: front.count + end, fileSystem: fileSystem)
        do {
            try front.withUnsafeBytes { try file.write($0, at: 0) }
            for (source, offset) in zip(ordered, offsets) {
                try source.streamChecked { try file.write($0, at: front.count + offset + $1) }
            }
            try file.commit()
        } catch {
            file.abandon()
            throw error
        }
    }

    /// Writes a folder: `model.safetensors` when everything fits into one shard, else
    /// `model-00001-of-0000N.safetensors` and the index, which comes last. A shard holds at most `maximumShardSize`
    /// bytes of tensors, but at least one tensor.
    ///
    /// Errors: `usage` when the folder already holds a model (shards cannot be replaced all at once), `inputOutput`.
    public static func writeFolder(
        _ path: String, tensors: [TensorSource], metadata: [String: String] = [:], maximumShardSize: Int,
        fileSystem: any FileSystem = POSIXFileSystem()
    ) throws {
        guard maximumShardSize > 0 else {
            throw RingZooError(.usage, "a shard of \(maximumShardSize) bytes holds nothing")
        }
        try check(tensors, path)
        try fileSystem.makeDirectory(path)
        if let old = try fileSystem.list(path).first(where: {
            $0 == SafetensorsFormat.indexName || ($0.hasPrefix("model") && $0.hasSuffix(".safetensors"))
        }) {
            throw RingZooError(
                .usage, "\(path) already holds a model (\(old))", tried: ["choose an empty folder, or empty this one"])
        }
        var shards: [[TensorSource]] = []
        var size = Int.max
        for source in tensors {
            let count = source.info.byteCount
            if size > maximumShardSize || count > maximumShardSize - size {
                shards.append([])
                size = 0
            }
            shards[shards.count - 1].append(source)
            size += count
        }
        if shards.count <= 1 {
            try write(
                "\(path)/\(SafetensorsFormat.singleName)", tensors: tensors, metadata: metadata, fileSystem: fileSystem)
            return
        }
        func number(_ n: Int) -> String { String(repeating: "0", count: max(0, 5 - String(n).count)) + String(n) }
        var map: [(name: String, file: String)] = []
        for (index, shard) in shards.enumerated() {
            let name = "model-\(number(index + 1))-of-\(number(shards.count)).safetensors"
            try write("\(path)/\(name)", tensors: shard, metadata: metadata, fileSystem: fileSystem)
            map += shard.map { ($0.info.name, name) }
        }
        let total = tensors.reduce(0) { $0 + $1.info.byteCount }
        var text = "{\n  \"metadata\": {\"total_size\": \(total)},\n  \"weight_map\": {\n"
        text += map.sorted { $0.name < $1.name }.map { "    \(JSON.quoted($0.name)): \(JSON.quoted($0.file))" }
            .joined(separator: ",\n")
        text += "\n  }\n}\n"
        let bytes = Array(text.utf8)
        let file = try AtomicFile(
            path: "\(path)/\(SafetensorsFormat.indexName)", byteCount: bytes.count, fileSystem: fileSystem)
        try bytes.withUnsafeBytes { try file.write($0, at: 0) }
        try file.commit()
    }

    private static func check(_ tensors: [TensorSource], _ path: String) throws {
        var names: Set<String> = []
        for source in tensors {
            let info = source.info
            guard info.name != "__metadata__", names.insert(info.name).inserted else {
                throw RingZooError(.usage, "\(path): \"\(info.name)\" is there twice, or no name for a tensor")
            }
            guard TensorInfo.byteCount(shape: info.shape, dtype: info.dtype) != nil else {
                throw RingZooError(.usage, "\(path): \(info.name) has the impossible shape \(info.shape)")
            }
        }
    }
}
