import CTensorKernels

/// Threads that run loops for one device; the calling thread is worker 0.
///
/// `@unchecked Sendable`: the C handle is immutable, and the C pool synchronises its threads itself. One caller at a time.
public final class ThreadPool: @unchecked Sendable {
    /// For C code that takes an executor of the form `(pool, count, body, argument)`; see `rz_pool_run`.
    public let handle: OpaquePointer
    public let workers: Int

    public init(workers: Int) {
        self.workers = max(1, workers)
        guard let handle = rz_pool_create(Int32(self.workers)) else {
            fatalError("ThreadPool: the system would not start \(self.workers) threads")
        }
        self.handle = handle
    }

    /// Calls `body(index, worker)` once for every index below `count`, started in increasing order, and waits for all.
    public func run(_ count: Int, _ body: (_ index: Int, _ worker: Int) -> Void) {
        if count <= 0 { return }
        if workers == 1 {
            for index in 0..<count { body(index, 0) }
            return
        }
        withoutActuallyEscaping(body) { escaping in
            withUnsafePointer(to: escaping) { pointer in
                rz_pool_run(
                    handle, Int64(count),
                    { argument, index, worker in
                        argument!.assumingMemoryBound(to: ((Int, Int) -> Void).self).pointee(Int(index), Int(worker))
                    }, UnsafeMutableRawPointer(mutating: pointer))
            }
        }
    }

    deinit { rz_pool_destroy(handle) }
}
