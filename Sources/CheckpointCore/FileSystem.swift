import TensorCore

/// Every access of this module to files, so that a test can make the n-th one fail.
///
/// All functions throw `RingZooError` with code `inputOutput` (a path that should be read and is not there:
/// `missingInput`), naming the call, the path and the reason of the system.
public protocol FileSystem: Sendable {
    /// Makes a folder and those above it; one that exists is fine.
    func makeDirectory(_ path: String) throws

    /// The names in a folder, in any order.
    func list(_ directory: String) throws -> [String]

    /// Opens a file for writing and locks it until it is closed or its process dies; nil when another holder has it,
    /// or when it is not there and `creating` is false.
    func openLocked(_ path: String, creating: Bool) throws -> OpenFile?

    /// Cuts a file to no bytes at all.
    func truncate(_ file: OpenFile) throws

    /// Reserves disk space for the first `byteCount` bytes and makes the file that long; a full disk shows here.
    func reserve(_ file: OpenFile, byteCount: Int) throws

    /// Writes at an offset and gives the number of bytes written, which may be smaller than asked but not 0.
    func write(_ bytes: UnsafeRawBufferPointer, to file: OpenFile, at offset: Int) throws -> Int

    /// Returns once the bytes of the file are on the disk.
    func synchronize(_ file: OpenFile) throws

    func close(_ file: OpenFile)

    /// Gives a file another name at once, over whatever had that name.
    func rename(_ from: String, to: String) throws

    /// Returns once the names in a folder are on the disk.
    func synchronizeDirectory(_ path: String) throws

    func remove(_ path: String) throws

    /// Maps a file for reading.
    func map(_ path: String) throws -> MappedFile
}

/// A file open for writing.
public struct OpenFile: Sendable {
    public let path: String
    public let descriptor: Int32

    public init(path: String, descriptor: Int32) {
        self.path = path
        self.descriptor = descriptor
    }
}

/// A file mapped into memory, read-only. Unmapped when the last reference goes.
///
/// A file that another process cuts short while it is mapped is a bus error at the first touch; files written by this
/// module are replaced by renaming only, which leaves a map whole.
public final class MappedFile: @unchecked Sendable {
    // Unchecked: the memory is never written through this object, and lives exactly as long as it.
    let bytes: UnsafeRawBufferPointer
    private let release: @Sendable (UnsafeRawBufferPointer) -> Void

    /// `release` gives the memory back.
    public init(bytes: UnsafeRawBufferPointer, release: @escaping @Sendable (UnsafeRawBufferPointer) -> Void) {
        self.bytes = bytes
        self.release = release
    }

    deinit { release(bytes) }

    func part(_ range: Range<Int>) -> TensorBytes {
        TensorBytes(owner: self, bytes: UnsafeRawBufferPointer(rebasing: bytes[range]), isMapped: true)
    }
}

/// Splits a path at its last slash.
func splitPath(_ path: String) -> (directory: String, name: String) {
    guard let slash = path.lastIndex(of: "/") else { return (".", path) }
    let directory = slash == path.startIndex ? "/" : String(path[..<slash])
    return (directory, String(path[path.index(after: slash)...]))
}
