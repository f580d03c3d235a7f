import CHDF5Shim
import Synchronization
import TensorCore

/// The linked libhdf5. It is parsed into and laid out with only; it never opens a file. One call at a time.
public enum HDF5Library {
    /// libhdf5 is at best thread-safe by one lock of its own, and the shim keeps its last message in one place.
    private static let lock = Mutex(())

    static func locked<R>(_ body: () throws -> R) rethrows -> R {
        try lock.withLock { _ in try body() }
    }

    /// For example "1.10.8".
    public static var version: String {
        locked {
            var parts: [UInt32] = [0, 0, 0]
            ringzoo_h5_version(&parts)
            return parts.map(String.init).joined(separator: ".")
        }
    }

    /// What libhdf5 said about the last call; only inside `locked`.
    fileprivate static var reason: String { String(cString: ringzoo_h5_reason()) }
}

/// The element type of a data set that RingZoo writes or reads.
enum HDF5Type: Hashable {
    case tensor(DType)
    case bytes
    /// Null-padded UTF-8 of this many bytes.
    case string(Int)

    fileprivate var code: (Int32, stringLength: Int) {
        switch self {
        case .tensor(.float32): (Int32(RINGZOO_H5_FLOAT32), 0)
        case .tensor(.float64): (Int32(RINGZOO_H5_FLOAT64), 0)
        case .tensor(.bfloat16): (Int32(RINGZOO_H5_BFLOAT16), 0)
        case .tensor(.float16): (Int32(RINGZOO_H5_FLOAT16), 0)
        case .tensor(.int32): (Int32(RINGZOO_H5_INT32), 0)
        case .tensor(.int64): (Int32(RINGZOO_H5_INT64), 0)
        case .tensor(.bool): (Int32(RINGZOO_H5_BOOL), 0)
        case .bytes: (Int32(RINGZOO_H5_UINT8), 0)
        case .string(let count): (Int32(RINGZOO_H5_STRING), count)
        }
    }

    fileprivate init?(_ fact: ringzoo_h5_fact) {
        switch Int(fact.type) {
        case RINGZOO_H5_FLOAT32: self = .tensor(.float32)
        case RINGZOO_H5_FLOAT64: self = .tensor(.float64)
        case RINGZOO_H5_BFLOAT16, RINGZOO_H5_OPAQUE2: self = .tensor(.bfloat16)
        case RINGZOO_H5_FLOAT16: self = .tensor(.float16)
        case RINGZOO_H5_INT32: self = .tensor(.int32)
        case RINGZOO_H5_INT64: self = .tensor(.int64)
        case RINGZOO_H5_BOOL: self = .tensor(.bool)
        case RINGZOO_H5_UINT8: self = .bytes
        case RINGZOO_H5_STRING: self = .string(fact.element_size)
        default: return nil
        }
    }
}

/// Everything of an HDF5 file but the data: laid out by libhdf5 in memory.
struct HDF5Skeleton {
    struct DataSet {
        /// Begins with a slash; every part but the last is a group.
        var path: String
        var type: HDF5Type
        var shape: [Int]
    }

    struct Part {
        var offset: Int
        var bytes: [UInt8]
    }

    /// Where each data set's bytes go, in the order given; nil for one without elements.
    private(set) var offsets: [Int?] = []
    /// The bytes of the skeleton, ascending; between them are data or zeros.
    private(set) var parts: [Part] = []
    private(set) var fileSize = 0

    init(_ dataSets: [DataSet], userBlock: Int) throws {
        self = try HDF5Library.locked {
            guard let skeleton = ringzoo_h5_skeleton_new(UInt64(userBlock)) else { throw Self.failure() }
            defer { ringzoo_h5_skeleton_free(skeleton) }
            var result = Self()
            for set in dataSets {
                let (code, stringLength) = set.type.code
                var offset: UInt64 = 0
                guard
                    ringzoo_h5_skeleton_add(
                        skeleton, set.path, code, stringLength, Int32(set.shape.count), set.shape.map(UInt64.init),
                        &offset) == 0
                else { throw Self.failure(set.path) }
                result.offsets.append(offset == UInt64.max ? nil : Int(offset))
            }
            guard ringzoo_h5_skeleton_close(skeleton) == 0 else { throw Self.failure() }
            result.fileSize = Int(ringzoo_h5_skeleton_size(skeleton))
            var offset: UInt64 = 0
            var count = 0
            while let bytes = ringzoo_h5_skeleton_part(skeleton, result.parts.count, &offset, &count) {
                result.parts.append(
                    Part(offset: Int(offset), bytes: Array(UnsafeRawBufferPointer(start: bytes, count: count))))
            }
            return result
        }
    }

    private init() {}

    private static func failure(_ path: String = "") -> RingZooError {
        RingZooError(
            .internalFailure, "libhdf5 could not lay out the file\(path.isEmpty ? "" : " (at \(path))")",
            tried: [HDF5Library.reason])
    }
}

/// What libhdf5 says is in a file, after the whitelist.
struct HDF5Contents {
    enum Storage: Equatable {
        /// Bytes in one run; nil for a data set without elements.
        case contiguous(offset: Int?)
        /// To be put together by libhdf5.
        case chunked
    }

    struct DataSet {
        var path: String
        var type: HDF5Type
        var shape: [Int]
        var byteCount: Int
        var storage: Storage
    }

    /// Objects of more than this number are no checkpoint, but an attack on the reader's time.
    static let maximumObjects = 200_000

    var groups: [String] = []
    var dataSets: [DataSet] = []
    /// Path and reason of everything the whitelist does not allow. None of it was followed or read.
    var refused: [(path: String, reason: String)] = []

    /// Lists a file image. Errors: `corruptInput` where libhdf5 cannot read it.
    init(_ bytes: UnsafeRawBufferPointer, path: String) throws {
        let walk = Walk(fileSize: bytes.count)
        try HDF5Library.locked {
            let visit: ringzoo_h5_visit = { fact, context in
                Unmanaged<Walk>.fromOpaque(context!).takeUnretainedValue().visit(fact!.pointee)
                return 0
            }
            let context = Unmanaged.passUnretained(walk).toOpaque()
            if ringzoo_h5_walk(bytes.baseAddress, bytes.count, Self.maximumObjects, visit, context) != 0 {
                throw RingZooError(.corruptInput, "\(path) is not a sound HDF5 file", tried: [HDF5Library.reason])
            }
        }
        walk.refuseOverlaps()
        groups = walk.groups
        dataSets = walk.dataSets
        refused = walk.refused
    }

    /// All elements of a chunked data set, unpacked by libhdf5.
    static func read(_ set: DataSet, of bytes: UnsafeRawBufferPointer, path: String) throws -> TensorBytes {
        let memory = OwnedBytes(count: set.byteCount)
        try HDF5Library.locked {
            if ringzoo_h5_read(bytes.baseAddress, bytes.count, set.path, memory.memory.baseAddress, set.byteCount) != 0
            {
                throw RingZooError(
                    .corruptInput, "\(path): data set \(set.path) cannot be read", tried: [HDF5Library.reason])
            }
        }
        return TensorBytes(owner: memory, bytes: UnsafeRawBufferPointer(memory.memory), isMapped: false)
    }

    /// The whitelist. Collects while libhdf5 walks; lives for one call under the lock.
    private final class Walk {
        let fileSize: Int
        var groups: [String] = []
        var dataSets: [DataSet] = []
        var refused: [(path: String, reason: String)] = []

        init(fileSize: Int) { self.fileSize = fileSize }

        func visit(_ fact: ringzoo_h5_fact) {
            guard let path = String(validatingCString: fact.path) else {
                refused.append((String(cString: fact.path), "its name is not UTF-8"))
                return
            }
            switch Int(fact.kind) {
            case RINGZOO_H5_GROUP: groups.append(path)
            case RINGZOO_H5_DATASET:
                switch judge(fact, path) {
                case .success(let set): dataSets.append(set)
                case .failure(let refusal): refused.append((path, refusal.reason))
                }
            default: refused.append((path, String(cString: fact.refusal)))
            }
        }

        private struct Refusal: Error {
            var reason: String
            init(_ reason: String) { self.reason = reason }
        }

        private func judge(_ fact: ringzoo_h5_fact, _ path: String) -> Result<DataSet, Refusal> {
            guard let type = HDF5Type(fact) else {
                let words = String(cString: fact.type_words)
                return .failure(
                    Refusal("its element type (\(words), \(fact.element_size) bytes) is not one RingZoo reads"))
            }
            guard fact.rank <= TensorInfo.maximumRank else {
                return .failure(Refusal("it has \(fact.rank) axes, more than \(TensorInfo.maximumRank)"))
            }
            let extents = withUnsafeBytes(of: fact.extents) { Array($0.bindMemory(to: UInt64.self)[..<Int(fact.rank)]) }
            let shape = extents.compactMap(Int.init(exactly:))
            guard shape.count == extents.count,
                let elements = TensorInfo.byteCount(shape: shape, dtype: .bool),
                case let (byteCount, overflow) = elements.multipliedReportingOverflow(by: fact.element_size), !overflow
            else { return .failure(Refusal("its shape \(extents) is impossible")) }

            var set = DataSet(
                path: path, type: type, shape: shape, byteCount: byteCount, storage: .contiguous(offset: nil))
            if byteCount == 0 { return .success(set) }
            if Int(fact.layout) == RINGZOO_H5_CONTIGUOUS {
                guard fact.filters == 0 else { return .failure(Refusal("it is contiguous and yet has filters")) }
                guard fact.offset != UInt64.max else {
                    return .failure(Refusal("it declares \(byteCount) bytes, but none were ever written"))
                }
                guard fact.storage_size == UInt64(byteCount), let offset = Int(exactly: fact.offset),
                    offset <= fileSize, byteCount <= fileSize - offset
                else {
                    return .failure(
                        Refusal(
                            "its \(byteCount) bytes at \(fact.offset) are not inside the file of \(fileSize) bytes"
                        ))
                }
                set.storage = .contiguous(offset: offset)
            } else {
                // Deflate cannot make more than 1032 bytes of one.
                let ratio: UInt64 = fact.filters == 0 ? 1 : 1032
                guard fact.plain_filters == 1 else {
                    return .failure(Refusal("it is packed by something else than shuffle, deflate and fletcher32"))
                }
                guard fact.storage_size <= UInt64(fileSize), UInt64(byteCount) / ratio <= fact.storage_size,
                    fact.chunk_size <= max(UInt64(byteCount), 64 << 20)
                else {
                    return .failure(
                        Refusal(
                            "its \(fact.storage_size) stored bytes cannot hold the \(byteCount) it declares"
                        ))
                }
                set.storage = .chunked
            }
            return .success(set)
        }

        /// Two data sets over the same bytes are refused both: one of them is a lie.
        func refuseOverlaps() {
            let placed = dataSets.indices.compactMap { index -> (start: Int, end: Int, index: Int)? in
                guard case .contiguous(let offset?) = dataSets[index].storage else { return nil }
                return (offset, offset + dataSets[index].byteCount, index)
            }.sorted { $0 < $1 }
            var overlapping: Set<Int> = []
            var furthest: (end: Int, index: Int)?
            for run in placed {
                if let furthest, run.start < furthest.end {
                    overlapping.insert(furthest.index)
                    overlapping.insert(run.index)
                }
                if run.end > furthest?.end ?? 0 { furthest = (run.end, run.index) }
            }
            for index in overlapping.sorted(by: >) {
                refused.append((dataSets[index].path, "it shares bytes with another data set"))
                dataSets.remove(at: index)
            }
        }
    }
}
