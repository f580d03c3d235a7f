import Foundation
import Synchronization
import TensorCore

@testable import CheckpointCore

/// A folder that goes away with the test.
final class TemporaryFolder: Sendable {
    let path: String

    init() throws {
        path = NSTemporaryDirectory() + "ringzoo-checkpoint-\(UUID().uuidString)"
        try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true)
    }

    deinit { try? FileManager.default.removeItem(atPath: path) }

    func file(_ name: String) -> String { path + "/" + name }

    var names: [String] { ((try? FileManager.default.contentsOfDirectory(atPath: path)) ?? []).sorted() }
}

func fixture(_ name: String) -> String {
    let folder = URL(fileURLWithPath: #filePath).deletingLastPathComponent().appendingPathComponent("Fixtures")
    return folder.appendingPathComponent(name).path
}

func readFile(_ path: String) throws -> [UInt8] { Array(try Data(contentsOf: URL(fileURLWithPath: path))) }

func writeFile(_ path: String, _ bytes: [UInt8]) throws { try Data(bytes).write(to: URL(fileURLWithPath: path)) }

/// Bytes that are the same for every run; bools are 0 and 1.
func sampleBytes(_ info: TensorInfo, seed: UInt64) -> [UInt8] {
    var state = seed &* 0x9e37_79b9_7f4a_7c15 | 1
    return (0..<info.byteCount).map { _ in
        state ^= state << 13
        state ^= state >> 7
        state ^= state << 17
        return info.dtype == .bool ? UInt8(state & 1) : UInt8(truncatingIfNeeded: state >> 24)
    }
}

struct Sample {
    var infos: [TensorInfo]
    var bytes: [[UInt8]]
    var metadata: [String: String] = [:]

    /// Each element type, and the odd shapes: scalar, empty, one axis of 1, eight axes.
    static func everything(seed: UInt64 = 1) -> Sample {
        var infos = DType.allCases.map { TensorInfo(name: "types.\($0.rawValue)", shape: [3, 5], dtype: $0) }
        infos += DType.allCases.map { TensorInfo(name: "scalars.\($0.rawValue)", shape: [], dtype: $0) }
        infos += [
            TensorInfo(name: "empty.first", shape: [0, 4], dtype: .float32),
            TensorInfo(name: "empty.last", shape: [4, 0], dtype: .bool),
            TensorInfo(name: "layers.0.attention.q_proj", shape: [64, 33], dtype: .bfloat16),
            TensorInfo(name: "layers.10.attention.q_proj", shape: [1, 2, 1, 3, 1, 2, 1, 2], dtype: .float32),
            TensorInfo(name: "größe", shape: [1], dtype: .int64),
        ]
        return Sample(
            infos, seed: seed,
            metadata: ["config": "model: { name: llama }\n", "empty": "", "step": "12", "tokenizer.json": "{\"ä\":1}"])
    }

    /// Three small tensors.
    static func small(seed: UInt64 = 1) -> Sample {
        Sample(
            [
                TensorInfo(name: "a.weight", shape: [3, 4], dtype: .float32),
                TensorInfo(name: "a.bias", shape: [3], dtype: .float32),
                TensorInfo(name: "b", shape: [5], dtype: .bfloat16),
            ], seed: seed, metadata: ["step": "\(seed)"])
    }

    init(_ infos: [TensorInfo], seed: UInt64, metadata: [String: String] = [:]) {
        self.infos = infos
        bytes = infos.enumerated().map { sampleBytes($1, seed: seed &+ UInt64($0)) }
        self.metadata = metadata
    }

    var sources: [TensorSource] { zip(infos, bytes).map { TensorSource($0, bytes: $1) } }

    func save(_ path: String, _ fileSystem: any FileSystem = POSIXFileSystem()) throws {
        try CheckpointWriter.save(path, tensors: sources, metadata: metadata, fileSystem: fileSystem)
    }

    /// True when a collection holds exactly these tensors and bytes.
    func equals(_ collection: some TensorCollection) throws -> Bool {
        guard Set(collection.tensors) == Set(infos), collection.tensors.count == infos.count else { return false }
        return try zip(infos, bytes).allSatisfy { info, bytes in try contents(collection, info.name) == bytes }
    }

    /// True when a checkpoint file verifies and holds exactly this.
    func isAt(_ path: String) throws -> Bool {
        let reader = try CheckpointReader(path)
        return try reader.metadata == metadata && equals(reader)
    }
}

func contents(_ collection: some TensorCollection, _ name: String) throws -> [UInt8] {
    try collection.bytes(of: name).withUnsafeBytes { Array($0) }
}

/// The RingZooError that `body` throws; nil when it throws none.
func fault(_ body: () throws -> Void) -> RingZooError? {
    do {
        try body()
        return nil
    } catch { return error as? RingZooError }
}

/// The real file system, with a hook before every call that may change the disk.
struct HookedFileSystem: FileSystem {
    enum Call: String, Sendable {
        case makeDirectory, list, open, truncate, reserve, write, synchronize, rename, synchronizeDirectory, remove
    }

    let real = POSIXFileSystem()
    /// May throw, and may end the process.
    let before: @Sendable (Call) throws -> Void
    /// Bytes of a piece that are really written.
    var writable: @Sendable (Int) -> Int = { $0 }

    func makeDirectory(_ path: String) throws {
        try before(.makeDirectory)
        try real.makeDirectory(path)
    }
    func list(_ directory: String) throws -> [String] {
        try before(.list)
        return try real.list(directory)
    }
    func openLocked(_ path: String, creating: Bool) throws -> OpenFile? {
        try before(.open)
        return try real.openLocked(path, creating: creating)
    }
    func truncate(_ file: OpenFile) throws {
        try before(.truncate)
        try real.truncate(file)
    }
    func reserve(_ file: OpenFile, byteCount: Int) throws {
        try before(.reserve)
        try real.reserve(file, byteCount: byteCount)
    }
    func write(_ bytes: UnsafeRawBufferPointer, to file: OpenFile, at offset: Int) throws -> Int {
        try before(.write)
        let part = UnsafeRawBufferPointer(rebasing: bytes[..<writable(bytes.count)])
        return try real.write(part, to: file, at: offset)
    }
    func synchronize(_ file: OpenFile) throws {
        try before(.synchronize)
        try real.synchronize(file)
    }
    func close(_ file: OpenFile) { real.close(file) }
    func rename(_ from: String, to: String) throws {
        try before(.rename)
        try real.rename(from, to: to)
    }
    func synchronizeDirectory(_ path: String) throws {
        try before(.synchronizeDirectory)
        try real.synchronizeDirectory(path)
    }
    func remove(_ path: String) throws {
        try before(.remove)
        try real.remove(path)
    }
    func map(_ path: String) throws -> MappedFile { try real.map(path) }
}

/// Counts calls and fails chosen ones.
final class FaultPlan: Sendable {
    private let state = Mutex((count: 0, failed: [HookedFileSystem.Call]()))
    private let fails: @Sendable (Int) -> Bool

    /// `fails` is asked with the number of each call, from 1.
    init(_ fails: @escaping @Sendable (Int) -> Bool) { self.fails = fails }

    var failed: [HookedFileSystem.Call] { state.withLock { $0.failed } }

    var fileSystem: HookedFileSystem {
        HookedFileSystem(before: { call in
            try self.state.withLock { state in
                state.count += 1
                if self.fails(state.count) {
                    state.failed.append(call)
                    throw RingZooError(.inputOutput, "injected fault in call \(state.count), \(call.rawValue)")
                }
            }
        })
    }
}
