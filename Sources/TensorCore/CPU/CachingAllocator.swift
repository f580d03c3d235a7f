import Foundation
import Synchronization

/// Keeps freed blocks for the next request of a similar size, so that a training step does not give large activations back to
/// the kernel and fault them in again. Safe from any thread.
///
/// Small blocks come from the heap, those of some pages and more are mappings of their own (`Mapping`). A heap keeps what lies between blocks
/// in use, each thread has another one, and nothing tells a heap to leave some memory to others while blocks are cached here.
final class CachingAllocator: Sendable {
    private struct State {
        var free: [Int: [UInt]] = [:]
        var cachedBytes = 0
        var systemAllocations = 0
    }
    private let state = Mutex(State())

    /// The smallest block that is a mapping. The weights and gradients of a small model are above it.
    static let smallestMapping = 16 << 10
    private static let page = 4 << 10

    /// Requests are rounded up to a size class. A power of two has eight of them in the heap, and 64 of mappings, but whole pages: at
    /// most 1/8 is wasted there, and 1/64 or a page here.
    static func sizeClass(_ byteCount: Int) -> Int {
        if byteCount <= 512 { return max(64, (byteCount + 63) / 64 * 64) }
        let power = 1 << (Int.bitWidth - (byteCount - 1).leadingZeroBitCount - 1)
        let step = byteCount > smallestMapping ? max(power / 64, page) : power / 8
        return (byteCount + step - 1) / step * step
    }

    func allocate(_ byteCount: Int) -> UnsafeMutableRawPointer {
        let size = Self.sizeClass(byteCount)
        let cached: UInt? = state.withLock { state in
            guard let address = state.free[size]?.popLast() else {
                state.systemAllocations += 1
                return nil
            }
            state.cachedBytes -= size
            return address
        }
        if let cached { return UnsafeMutableRawPointer(bitPattern: cached)! }
        if let block = Self.take(size) { return block }
        trim()
        guard let block = Self.take(size) else {
            fatalError(
                "out of memory: the system refused \(size) bytes; set memory.budget to fail with an error before this")
        }
        return block
    }

    func release(_ pointer: UnsafeMutableRawPointer, _ byteCount: Int) {
        let size = Self.sizeClass(byteCount)
        state.withLock { state in
            state.free[size, default: []].append(UInt(bitPattern: pointer))
            state.cachedBytes += size
        }
    }

    /// Bytes held for reuse.
    var cachedBytes: Int { state.withLock { $0.cachedBytes } }

    /// Requests so far that no cached block could serve.
    var systemAllocations: Int { state.withLock { $0.systemAllocations } }

    /// Gives all cached blocks back to the system.
    func trim() {
        let free = state.withLock { state in
            defer { (state.free, state.cachedBytes) = ([:], 0) }
            return state.free
        }
        for (size, blocks) in free {
            for block in blocks { Self.giveBack(UnsafeMutableRawPointer(bitPattern: block)!, size) }
        }
    }

    deinit { trim() }

    // MARK: From and to the system

    private static func take(_ size: Int) -> UnsafeMutableRawPointer? {
        if size >= smallestMapping { return Mapping.make(size) }
        var pointer: UnsafeMutableRawPointer?
        return posix_memalign(&pointer, 64, size) == 0 ? pointer : nil
    }

    private static func giveBack(_ block: UnsafeMutableRawPointer, _ size: Int) {
        if size >= smallestMapping { Mapping.remove(block, size) } else { free(block) }
    }
}
