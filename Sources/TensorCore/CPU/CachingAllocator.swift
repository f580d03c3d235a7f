import Foundation
import Synchronization

/// Keeps freed blocks for the next request of a similar size, so that a training step does not give large activations back to
/// the kernel and fault them in again. Safe from any thread.
final class CachingAllocator: Sendable {
    private struct State {
        var free: [Int: [UInt]] = [:]
        var cachedBytes = 0
        var systemAllocations = 0
    }
    private let state = Mutex(State())

    /// Requests are rounded up to a size class: eight per power of two, at least 64 bytes, so at most 1/8 is wasted.
    static func sizeClass(_ byteCount: Int) -> Int {
        if byteCount <= 512 { return max(64, (byteCount + 63) / 64 * 64) }
        let step = 1 << (Int.bitWidth - (byteCount - 1).leadingZeroBitCount - 4)
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
        var pointer: UnsafeMutableRawPointer?
        // Large blocks start at a huge page, which saves most of their page faults.
        let alignment = size >= 4 << 20 ? 2 << 20 : 64
        if posix_memalign(&pointer, alignment, size) != 0 {
            trim()
            if posix_memalign(&pointer, alignment, size) != 0 {
                fatalError(
                    "out of memory: the system refused \(size) bytes; set memory.budget to fail with an error before this"
                )
            }
        }
        #if os(Linux)
            if size >= 4 << 20 { madvise(pointer!, size, 14 /* MADV_HUGEPAGE */) }
        #endif
        return pointer!
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
        let blocks = state.withLock { state in
            defer { (state.free, state.cachedBytes) = ([:], 0) }
            return state.free.values.flatMap { $0 }
        }
        for block in blocks { free(UnsafeMutableRawPointer(bitPattern: block)) }
    }

    deinit { trim() }
}
