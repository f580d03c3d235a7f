import Foundation

/// Memory in whole pages, straight from the system. What is given back is gone from the process at once, while a heap keeps what
/// lies between blocks that are in use, and the slack of their alignment.
enum Mapping {
    static let hugePage = 2 << 20
    /// Blocks of two huge pages and more start at one, which saves most of their page faults.
    private static let alignedSize = 2 * hugePage

    /// - Returns: nil where the system refuses.
    static func make(_ byteCount: Int) -> UnsafeMutableRawPointer? {
        if byteCount < alignedSize { return pages(byteCount) }
        // Where there is no room for the slack, rather a block that starts anywhere.
        guard let block = aligned(byteCount) ?? pages(byteCount) else { return nil }
        #if os(Linux)
            madvise(block, byteCount, 14 /* MADV_HUGEPAGE */)
        #endif
        return block
    }

    static func remove(_ block: UnsafeMutableRawPointer, _ byteCount: Int) { munmap(block, byteCount) }

    private static func pages(_ byteCount: Int) -> UnsafeMutableRawPointer? {
        let block = mmap(nil, byteCount, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANON, -1, 0)
        return block == MAP_FAILED ? nil : block
    }

    /// Starts at a huge page; what was mapped before and behind it is given back.
    private static func aligned(_ byteCount: Int) -> UnsafeMutableRawPointer? {
        let page = sysconf(Int32(_SC_PAGESIZE))
        let size = (byteCount + page - 1) / page * page
        guard let begin = pages(size + hugePage) else { return nil }
        let block = begin.alignedUp(toMultipleOf: hugePage)
        let (before, behind) = (block - begin, hugePage - (block - begin))
        if before > 0 { munmap(begin, before) }
        if behind > 0 { munmap(block + size, behind) }
        return block
    }
}
