import TensorCore

/// Tensors in the safetensors format: one file, or a folder of shards with `model.safetensors.index.json`.
///
/// The header is checked in full while opening: at most 100 MB, no name twice, each tensor as long as its shape and
/// type say, tensors side by side from the first byte to the last. Tensors are mapped, not copied. The format has no
/// sums: changed numbers are not noticed.
public final class SafetensorsReader: TensorCollection {
    public let path: String
    public let tensors: [TensorInfo]
    /// The free texts of the header (`__metadata__`) of the first file.
    public let metadata: [String: String]
    /// Tensors whose element type RingZoo has no use for, and that type; they are not in `tensors`.
    public let unsupported: [String: String]

    private struct Place {
        var file: MappedFile
        var range: Range<Int>
        var info: TensorInfo
    }
    private let places: [String: Place]

    /// Errors: `missingInput`, `inputOutput`, and `corruptInput` naming the file and the tensor at fault.
    public init(_ path: String, fileSystem: any FileSystem = POSIXFileSystem()) throws {
        let (files, listed) = try Self.files(path, fileSystem)
        self.path = path
        var tensors: [TensorInfo] = []
        var places: [String: Place] = [:]
        var unsupported: [String: String] = [:]
        var metadata: [String: String]?
        for file in files {
            let map = try fileSystem.map(file)
            let header = try SafetensorsHeader(map.bytes, path: file)
            metadata = metadata ?? header.metadata
            for entry in header.entries {
                if let listed, listed[entry.name].map({ "\(path)/\($0)" }) != file {
                    throw RingZooError(
                        .corruptInput,
                        "\(file): tensor \(entry.name) is here, but the index says "
                            + (listed[entry.name] ?? "there is none of that name"))
                }
                guard let dtype = entry.type.dtype else {
                    unsupported[entry.name] = entry.type.name
                    continue
                }
                let info = TensorInfo(name: entry.name, shape: entry.shape, dtype: dtype)
                tensors.append(info)
                places[entry.name] = Place(file: map, range: entry.range, info: info)
            }
        }
        if let listed {
            for (name, file) in listed.sorted(by: { $0.key < $1.key })
            where places[name] == nil && unsupported[name] == nil {
                throw RingZooError(.corruptInput, "\(path)/\(file): tensor \(name) is missing, but the index lists it")
            }
        }
        self.tensors = tensors
        self.places = places
        self.unsupported = unsupported
        self.metadata = metadata ?? [:]
    }

    /// The bytes of a tensor; see `TensorBytes.isAligned` before looking at them through a typed pointer.
    public func bytes(of name: String) throws -> TensorBytes {
        if let type = unsupported[name] {
            throw RingZooError(
                .corruptInput, "\(path): tensor \(name) has the type \(type), which RingZoo does not read")
        }
        guard let place = places[name] else {
            let known = tensors.prefix(8).map(\.name).joined(separator: ", ")
            throw RingZooError(.missingInput, "\(path) has no tensor \(name)", tried: ["it has \(known)"])
        }
        let bytes = place.file.part(place.range)
        try bytes.withUnsafeBytes { try checkBooleans($0, place.info, in: path) }
        return bytes
    }

    /// The files to read, and for a sharded folder which tensor the index puts into which file.
    private static func files(
        _ path: String, _ fileSystem: any FileSystem
    ) throws -> (files: [String], listed: [String: String]?) {
        guard let names = try? fileSystem.list(path) else { return ([path], nil) }
        if names.contains(SafetensorsFormat.indexName) {
            let index = "\(path)/\(SafetensorsFormat.indexName)"
            let map = try fileSystem.map(index)
            func fault(_ what: String) -> RingZooError { RingZooError(.corruptInput, "\(index): \(what)") }
            guard map.bytes.count <= SafetensorsFormat.maximumHeaderSize else { throw fault("longer than 100 MB") }
            let json: JSON
            do { json = try JSON(parsing: map.bytes) } catch { throw fault("\(error)") }
            guard let members = json["weight_map"]?.members else { throw fault("there is no weight_map") }
            var listed: [String: String] = [:]
            for member in members {
                // A shard is a file of this folder: a path would let the index name any file of the machine.
                guard let file = member.value.text, file.hasSuffix(".safetensors"), !file.contains("/"),
                    !file.utf8.contains(0)
                else { throw fault("tensor \(member.key) is not in a file of this folder") }
                listed[member.key] = file
            }
            return (Set(listed.values).sorted().map { "\(path)/\($0)" }, listed)
        }
        if names.contains(SafetensorsFormat.singleName) { return (["\(path)/\(SafetensorsFormat.singleName)"], nil) }
        throw RingZooError(
            .missingInput, "\(path) holds no safetensors model",
            tried: ["looked for \(SafetensorsFormat.indexName) and \(SafetensorsFormat.singleName)"])
    }
}

/// Names and limits of the format.
enum SafetensorsFormat {
    static let singleName = "model.safetensors"
    static let indexName = "model.safetensors.index.json"
    /// From the format's description; keeps a reader from parsing for ever.
    static let maximumHeaderSize = 100_000_000

    /// The element types of the format: bytes of one element, and ours where we have it.
    struct ElementType {
        var name: String
        var byteCount: Int
        var dtype: DType?

        init?(_ name: String) {
            let known: (Int, DType?)
            switch name {
            case "F64": known = (8, .float64)
            case "F32": known = (4, .float32)
            case "F16": known = (2, .float16)
            case "BF16": known = (2, .bfloat16)
            case "I64": known = (8, .int64)
            case "I32": known = (4, .int32)
            case "BOOL": known = (1, .bool)
            case "U64": known = (8, nil)
            case "U32": known = (4, nil)
            case "I16", "U16": known = (2, nil)
            case "I8", "U8", "F8_E4M3", "F8_E5M2": known = (1, nil)
            default: return nil
            }
            self.name = name
            (byteCount, dtype) = known
        }
    }

    static func name(of dtype: DType) -> String {
        switch dtype {
        case .float64: "F64"
        case .float32: "F32"
        case .float16: "F16"
        case .bfloat16: "BF16"
        case .int64: "I64"
        case .int32: "I32"
        case .bool: "BOOL"
        }
    }
}

/// The checked header of one safetensors file: eight bytes of length, that many bytes of JSON, then the tensors.
struct SafetensorsHeader {
    struct Entry {
        var name: String
        var type: SafetensorsFormat.ElementType
        var shape: [Int]
        /// Place in the file.
        var range: Range<Int>
    }

    /// In the order of the bytes.
    var entries: [Entry] = []
    var metadata: [String: String] = [:]

    init(_ file: UnsafeRawBufferPointer, path: String) throws {
        func fault(_ what: String) -> RingZooError { RingZooError(.corruptInput, "\(path): \(what)") }
        guard file.count >= 8 else { throw fault("too short for a safetensors file (\(file.count) bytes)") }
        let length = UInt64(littleEndian: file.loadUnaligned(as: UInt64.self))
        guard length <= UInt64(SafetensorsFormat.maximumHeaderSize), Int(length) <= file.count - 8 else {
            throw fault("not a safetensors file, or cut off: its header is said to be \(length) bytes long")
        }
        let start = 8 + Int(length)
        let text = UnsafeRawBufferPointer(rebasing: file[8..<start])
        guard text.first == UInt8(ascii: "{") else { throw fault("the header does not begin with {") }
        let json: JSON
        do { json = try JSON(parsing: text) } catch { throw fault("header: \(error)") }
        for member in json.members ?? [] {
            let name = member.key
            if name == "__metadata__" {
                for entry in member.value.members ?? [] {
                    guard let text = entry.value.text else { throw fault("__metadata__: \(entry.key) is not a text") }
                    metadata[entry.key] = text
                }
                guard member.value.members != nil else { throw fault("__metadata__ is not an object") }
                continue
            }
            guard let typeName = member.value["dtype"]?.text, let shape = member.value["shape"]?.ints,
                let offsets = member.value["data_offsets"]?.ints, offsets.count == 2,
                member.value.members?.count == 3
            else { throw fault("tensor \(name): wants dtype, shape and two data_offsets, and nothing else") }
            guard let type = SafetensorsFormat.ElementType(typeName) else {
                throw fault("tensor \(name) has the unknown type \(typeName)")
            }
            guard let elements = TensorInfo.byteCount(shape: shape, dtype: .bool),
                case let (byteCount, overflow) = elements.multipliedReportingOverflow(by: type.byteCount), !overflow
            else { throw fault("tensor \(name): the shape \(shape) is impossible") }
            guard offsets[0] >= 0, offsets[0] <= offsets[1], offsets[1] <= file.count - start else {
                throw fault("tensor \(name): the bytes \(offsets[0]) to \(offsets[1]) are not inside the file")
            }
            guard offsets[1] - offsets[0] == byteCount else {
                throw fault(
                    "tensor \(name): \(offsets[1] - offsets[0]) bytes, but \(typeName) \(shape) takes \(byteCount)"
                )
            }
            entries.append(
                Entry(name: name, type: type, shape: shape, range: start + offsets[0]..<start + offsets[1]))
        }
        entries.sort { ($0.range.lowerBound, $0.range.upperBound) < ($1.range.lowerBound, $1.range.upperBound) }
        var end = start
        for entry in entries {
            guard entry.range.lowerBound == end else {
                throw fault(
                    "tensor \(entry.name): there is \(entry.range.lowerBound < end ? "an overlap" : "a hole") before its bytes"
                )
            }
            end = entry.range.upperBound
        }
        guard end == file.count else { throw fault("\(file.count - end) bytes after the last tensor belong to none") }
    }
}
