import Foundation

/// Memory in whole pages, straight from the system. What is given back is gone from the process at once, while a heap keeps what
/// lies between blocks that are in use, and the slack of their alignment.
enum Mapping {
    private static let hugePage = 2 << 20
    /// Blocks of two huge pages and more start at one, which saves most of their page faults.
    private static let alignedSize = 2 * hugePage

    /// - Returns: nil where the system refuses, or would have less than a huge page left for this process: that is for those who do not
    ///   ask here and cannot cope without (Swift's objects, MPI, which waits for ever).
    static func make(_ byteCount: Int) -> UnsafeMutableRawPointer? {
        let page = sysconf(Int32(_SC_PAGESIZE))
        let size = (byteCount + page - 1) / page * page
        let begin = mmap(nil, size + hugePage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANON, -1, 0)
        guard let begin, begin != MAP_FAILED else { return nil }
        let isAligned = byteCount >= alignedSize
        let block = isAligned ? begin.alignedUp(toMultipleOf: hugePage) : begin
        let before = block - begin
        if before > 0 { munmap(begin, before) }
        munmap(block + size, hugePage - before)
        #if os(Linux)
            if isAligned { madvise(block, size, 14 /* MADV_HUGEPAGE */) }
        #endif
        return block
    }

    static func remove(_ block: UnsafeMutableRawPointer, _ byteCount: Int) { munmap(block, byteCount) }
}
