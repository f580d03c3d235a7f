import Synchronization
import TensorCore

/// A file that appears under its name complete and on the disk, or not at all.
///
/// The bytes go into a hidden file beside the target, locked by its writer. `commit` brings them to the disk,
/// renames, and brings the name to the disk. A writer that dies leaves the hidden file without a lock; the next one
/// in this folder removes it.
final class AtomicFile: Sendable {
    static let suffix = ".ringzoo-partial"

    private enum Phase { case open, committed, abandoned }

    let path: String
    private let fileSystem: any FileSystem
    private let file: OpenFile
    private let phase = Mutex(Phase.open)

    /// Reserves `byteCount` bytes, all zero.
    init(path: String, byteCount: Int, fileSystem: any FileSystem) throws {
        let (directory, name) = splitPath(path)
        guard !name.isEmpty else { throw RingZooError(.usage, "cannot write to \"\(path)\": it names no file") }
        Self.sweep(directory, fileSystem)
        let partial = "\(directory)/.\(name)\(Self.suffix)"
        guard let file = try fileSystem.openLocked(partial, creating: true) else {
            throw RingZooError(.inputOutput, "cannot write \(path): another process is writing it now")
        }
        do {
            try fileSystem.truncate(file)
            try fileSystem.reserve(file, byteCount: byteCount)
        } catch {
            try? fileSystem.remove(partial)
            fileSystem.close(file)
            throw error
        }
        self.path = path
        self.fileSystem = fileSystem
        self.file = file
    }

    deinit { abandon() }

    /// Any thread may write any part.
    func write(_ bytes: UnsafeRawBufferPointer, at offset: Int) throws {
        var done = 0
        while done < bytes.count {
            let rest = UnsafeRawBufferPointer(rebasing: bytes[done...])
            let written = try fileSystem.write(rest, to: file, at: offset + done)
            guard written > 0, written <= rest.count else {
                throw RingZooError(.inputOutput, "cannot write \(path): \(written) of \(rest.count) bytes were taken")
            }
            done += written
        }
    }

    /// On an error before the rename the target is as it was; after it (the folder could not be brought to the disk)
    /// the new file is complete under its name, but might not survive a loss of power.
    func commit() throws {
        try phase.withLock { phase in
            guard phase == .open else { fatalError("AtomicFile.commit: called twice, or after abandon") }
            do {
                try fileSystem.synchronize(file)
                try fileSystem.rename(file.path, to: path)
            } catch {
                phase = .abandoned
                try? fileSystem.remove(file.path)
                fileSystem.close(file)
                throw error
            }
            phase = .committed
            fileSystem.close(file)
            try fileSystem.synchronizeDirectory(splitPath(path).directory)
        }
    }

    /// Gives up; the target stays as it was. Does nothing after `commit`.
    func abandon() {
        phase.withLock { phase in
            guard phase == .open else { return }
            phase = .abandoned
            try? fileSystem.remove(file.path)
            fileSystem.close(file)
        }
    }

    /// Removes what dead writers left. A failure here is no reason not to save, so none is reported.
    static func sweep(_ directory: String, _ fileSystem: any FileSystem) {
        for name in (try? fileSystem.list(directory)) ?? [] where name.hasPrefix(".") && name.hasSuffix(suffix) {
            let path = "\(directory)/\(name)"
            guard let stale = try? fileSystem.openLocked(path, creating: false) else { continue }
            try? fileSystem.remove(path)
            fileSystem.close(stale)
        }
    }
}
