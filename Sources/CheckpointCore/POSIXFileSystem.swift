import CHDF5Shim
import TensorCore

#if canImport(Glibc)
    import Glibc
#elseif canImport(Musl)
    import Musl
#elseif canImport(Darwin)
    import Darwin
#endif

/// The file system of this machine.
public struct POSIXFileSystem: FileSystem {
    public init() {}

    public func makeDirectory(_ path: String) throws {
        var made = path.hasPrefix("/") ? "/" : ""
        for part in path.split(separator: "/") {
            made += (made.isEmpty || made.hasSuffix("/") ? "" : "/") + part
            if mkdir(made, 0o777) != 0, errno != EEXIST { throw failure("make the folder", made, errno) }
        }
        var status = stat()
        if stat(path, &status) != 0 || status.st_mode & S_IFMT != S_IFDIR {
            throw failure("make the folder", path, ENOTDIR)
        }
    }

    public func list(_ directory: String) throws -> [String] {
        guard let stream = opendir(directory) else { throw failure("list", directory, errno, reading: true) }
        defer { closedir(stream) }
        var names: [String] = []
        errno = 0
        while let entry = readdir(stream) {
            let name = withUnsafePointer(to: &entry.pointee.d_name) {
                $0.withMemoryRebound(to: CChar.self, capacity: 256) { String(cString: $0) }
            }
            if name != ".", name != ".." { names.append(name) }
            errno = 0
        }
        if errno != 0 { throw failure("list", directory, errno) }
        return names
    }

    public func openLocked(_ path: String, creating: Bool) throws -> OpenFile? {
        // The file at the path can change between open and lock (its holder renames it or sweeps it), so look again
        // afterwards.
        for _ in 0..<100 {
            let descriptor = open(path, O_RDWR | O_CLOEXEC | (creating ? O_CREAT : 0), 0o666)
            if descriptor < 0 {
                if errno == ENOENT, !creating { return nil }
                throw failure("open", path, errno)
            }
            if flock(descriptor, LOCK_EX | LOCK_NB) != 0 {
                let number = errno
                _ = Self.closeDescriptor(descriptor)
                if number == EWOULDBLOCK { return nil }
                throw failure("lock", path, number)
            }
            var held = stat()
            var named = stat()
            if fstat(descriptor, &held) == 0, stat(path, &named) == 0, held.st_ino == named.st_ino,
                held.st_dev == named.st_dev
            {
                return OpenFile(path: path, descriptor: descriptor)
            }
            _ = Self.closeDescriptor(descriptor)
            if !creating { return nil }
        }
        throw RingZooError(.inputOutput, "cannot lock \(path): another process keeps replacing it")
    }

    public func truncate(_ file: OpenFile) throws {
        if ftruncate(file.descriptor, 0) != 0 { throw failure("cut", file.path, errno) }
    }

    public func reserve(_ file: OpenFile, byteCount: Int) throws {
        let number = ringzoo_reserve(file.descriptor, Int64(byteCount))
        if number != 0 { throw failure("reserve \(byteCount) bytes for", file.path, number) }
    }

    public func write(_ bytes: UnsafeRawBufferPointer, to file: OpenFile, at offset: Int) throws -> Int {
        while true {
            let written = pwrite(file.descriptor, bytes.baseAddress, bytes.count, off_t(offset))
            if written > 0 || bytes.isEmpty { return max(written, 0) }
            if written < 0, errno == EINTR { continue }
            throw failure(
                "write \(bytes.count) bytes at offset \(offset) of", file.path, written == 0 ? ENOSPC : errno)
        }
    }

    public func synchronize(_ file: OpenFile) throws {
        while fsync(file.descriptor) != 0 {
            if errno != EINTR { throw failure("bring to the disk", file.path, errno) }
        }
    }

    public func close(_ file: OpenFile) { _ = Self.closeDescriptor(file.descriptor) }

    public func rename(_ from: String, to: String) throws {
        if Self.renamePath(from, to) != 0 { throw failure("rename \(from) to", to, errno) }
    }

    public func synchronizeDirectory(_ path: String) throws {
        let descriptor = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC)
        if descriptor < 0 { throw failure("open the folder", path, errno) }
        defer { _ = Self.closeDescriptor(descriptor) }
        while fsync(descriptor) != 0 {
            if errno != EINTR { throw failure("bring to the disk the folder", path, errno) }
        }
    }

    public func remove(_ path: String) throws {
        if unlink(path) != 0 { throw failure("remove", path, errno) }
    }

    public func map(_ path: String) throws -> MappedFile {
        let descriptor = open(path, O_RDONLY | O_CLOEXEC)
        if descriptor < 0 { throw failure("open", path, errno, reading: true) }
        defer { _ = Self.closeDescriptor(descriptor) }
        var status = stat()
        if fstat(descriptor, &status) != 0 { throw failure("look at", path, errno) }
        if status.st_mode & S_IFMT != S_IFREG {
            throw RingZooError(.inputOutput, "cannot map \(path): it is not an ordinary file")
        }
        let count = Int(status.st_size)
        if count == 0 { return MappedFile(bytes: UnsafeRawBufferPointer(start: nil, count: 0), release: { _ in }) }
        guard let start = mmap(nil, count, PROT_READ, MAP_PRIVATE, descriptor, 0), start != MAP_FAILED else {
            throw failure("map \(count) bytes of", path, errno)
        }
        return MappedFile(bytes: UnsafeRawBufferPointer(start: start, count: count)) {
            munmap(UnsafeMutableRawPointer(mutating: $0.baseAddress!), $0.count)
        }
    }

    // Inside the methods above, the names of the system calls mean the methods themselves.
    private static func closeDescriptor(_ descriptor: Int32) -> Int32 {
        #if canImport(Glibc)
            Glibc.close(descriptor)
        #elseif canImport(Musl)
            Musl.close(descriptor)
        #else
            Darwin.close(descriptor)
        #endif
    }

    private static func renamePath(_ from: String, _ to: String) -> Int32 {
        #if canImport(Glibc)
            Glibc.rename(from, to)
        #elseif canImport(Musl)
            Musl.rename(from, to)
        #else
            Darwin.rename(from, to)
        #endif
    }

    private func failure(_ what: String, _ path: String, _ number: Int32, reading: Bool = false) -> RingZooError {
        var tried: [String] = []
        if number == ENOSPC || number == EDQUOT || number == EFBIG {
            tried = ["free some space, or choose another folder; what was there before is untouched"]
        }
        return RingZooError(
            reading && number == ENOENT ? .missingInput : .inputOutput,
            "cannot \(what) \(path): \(String(cString: strerror(number))) (error \(number))", tried: tried)
    }
}
