import Synchronization
import TensorCore

#if canImport(Glibc)
    import Glibc
#elseif canImport(Musl)
    import Musl
#elseif canImport(Darwin)
    import Darwin
#endif

/// The checkpoints of one run: `step-00000012.h5` and so on in a folder that this value owns while it lives.
///
/// A lock file keeps a second job out; the lock ends with its process, however that ends.
public final class CheckpointDirectory: Sendable {
    /// A checkpoint that `newest` passed over.
    public struct Damaged: Sendable {
        public let path: String
        public let error: RingZooError
    }

    public let path: String
    /// How many checkpoints to keep.
    public let keep: Int
    private let fileSystem: any FileSystem
    private let lock: OpenFile
    private let saving = Mutex(())

    static let lockName = ".ringzoo-lock"

    /// Makes the folder where it is missing, and locks it. Errors: `inputOutput` when another process has it, naming
    /// that process.
    public init(_ path: String, keep: Int = 3, fileSystem: any FileSystem = POSIXFileSystem()) throws {
        guard keep >= 1 else {
            throw RingZooError(.config, "run.keep is \(keep)", tried: ["keep at least 1 checkpoint"])
        }
        try fileSystem.makeDirectory(path)
        let lockPath = "\(path)/\(Self.lockName)"
        guard let lock = try fileSystem.openLocked(lockPath, creating: true) else {
            let holder = (try? fileSystem.map(lockPath)).map { String(decoding: $0.bytes, as: UTF8.self) } ?? ""
            throw RingZooError(
                .inputOutput, "\(path) is in use by another job (\(holder.split(separator: "\n").first ?? "unknown"))",
                tried: ["give each job a run.directory of its own"])
        }
        self.path = path
        self.keep = keep
        self.fileSystem = fileSystem
        self.lock = lock
        do {
            try fileSystem.truncate(lock)
            try Array("process \(getpid()) on \(Self.hostName)\n".utf8).withUnsafeBytes {
                _ = try fileSystem.write($0, to: lock, at: 0)
            }
        } catch {
            fileSystem.close(lock)
            throw error
        }
        AtomicFile.sweep(path, fileSystem)
    }

    // The lock file stays: removing it would let two later jobs lock two different files of that name.
    deinit { fileSystem.close(lock) }

    /// The file name of a step.
    public static func name(ofStep step: Int) -> String {
        let digits = String(step)
        return "step-" + String(repeating: "0", count: max(0, 8 - digits.count)) + digits + ".h5"
    }

    /// The step in a file name; nil for anything else.
    public static func step(ofName name: String) -> Int? {
        guard name.hasPrefix("step-"), name.hasSuffix(".h5"), let step = Int(name.dropFirst(5).dropLast(3)), step >= 0,
            Self.name(ofStep: step) == name
        else { return nil }
        return step
    }

    public func path(ofStep step: Int) -> String { "\(path)/\(Self.name(ofStep: step))" }

    /// The steps with a checkpoint, ascending. Nothing is opened.
    public func steps() throws -> [Int] { try Self.steps(in: path, fileSystem: fileSystem) }

    /// The same for a folder that somebody else may own.
    public static func steps(in path: String, fileSystem: any FileSystem = POSIXFileSystem()) throws -> [Int] {
        try fileSystem.list(path).compactMap(step(ofName:)).sorted()
    }

    /// Saves a step and then removes the oldest beyond `keep`; gives the path. The one just saved is never removed.
    ///
    /// On an error while saving nothing was removed, and a checkpoint of the same step is as it was; an error while
    /// removing comes after the new checkpoint is complete in its place.
    @discardableResult
    public func save(step: Int, tensors: [TensorSource], metadata: [String: String] = [:]) throws -> String {
        let target = path(ofStep: step)
        try saving.withLock { _ in
            try CheckpointWriter.save(target, tensors: tensors, metadata: metadata, fileSystem: fileSystem)
            try removeOld(besides: step)
        }
        return target
    }

    /// Removes the oldest checkpoints beyond `keep`, for a caller that used `CheckpointWriter` itself to save `step`.
    public func removeOld(besides step: Int) throws {
        let others = try steps().filter { $0 != step }
        for old in others.dropLast(keep - 1) { try fileSystem.remove(path(ofStep: old)) }
    }

    /// Opens the newest checkpoint that is whole; nil when there is none. Damaged ones are passed over and listed.
    public func newest() throws -> (reader: CheckpointReader?, damaged: [Damaged]) {
        try Self.newest(in: path, fileSystem: fileSystem)
    }

    /// The same for a folder that somebody else may own. A file that vanishes meanwhile is passed over; a disk that
    /// cannot be read is an error.
    public static func newest(
        in path: String, fileSystem: any FileSystem = POSIXFileSystem()
    ) throws -> (reader: CheckpointReader?, damaged: [Damaged]) {
        var damaged: [Damaged] = []
        for step in try steps(in: path, fileSystem: fileSystem).reversed() {
            let file = "\(path)/\(name(ofStep: step))"
            do {
                return (try CheckpointReader(file, fileSystem: fileSystem), damaged)
            } catch let error as RingZooError where error.code == .corruptInput {
                damaged.append(Damaged(path: file, error: error))
            } catch let error as RingZooError where error.code == .missingInput {
                continue
            }
        }
        return (nil, damaged)
    }

    private static var hostName: String {
        var buffer = [CChar](repeating: 0, count: 256)
        guard gethostname(&buffer, buffer.count - 1) == 0 else { return "an unknown host" }
        return String(decoding: buffer.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
    }
}
