import COpenBLAS
import CTensorKernels
import Foundation

/// The host's processor: memory from a caching allocator, loops on a thread pool of its own, products of our own or OpenBLAS's.
///
/// Each in-process rank owns one, so ledger, budget and threads are per rank. Results have the same bits at any number of
/// threads: work is cut into pieces whose borders depend on shapes alone, and OpenBLAS runs one thread per piece.
public final class CPUDevice: Device {
    public let name: String
    public let ledger = MemoryLedger()
    public let pool: ThreadPool
    public let products: ProductChoice
    public let hasHostMemory = true
    let allocator = CachingAllocator()
    private let slot = RecorderSlot()

    public var recorder: OperationRecorder? {
        get { slot.current }
        set { slot.current = newValue }
    }

    /// - Parameters:
    ///   - threads: worker threads including the caller; nil for `defaultThreads`.
    ///   - products: who computes matrix products.
    public init(name: String = "cpu", threads: Int? = nil, products: ProductChoice = .standard) {
        self.name = name
        self.products = products
        pool = ThreadPool(workers: threads ?? CPUDevice.defaultThreads)
        _ = singleThreadedProducts
    }

    /// The number of cores this process may use; the command line overrides it with RINGZOO_THREADS.
    public static var defaultThreads: Int { ProcessInfo.processInfo.activeProcessorCount }

    /// OpenBLAS's kernel set, for example "SkylakeX". The environment variable OPENBLAS_CORETYPE may force a slow one.
    public static var productKernels: String { OpenBLASCore.current.description }

    /// Bytes the allocator holds for reuse beyond what is live.
    public var cachedBytes: Int { allocator.cachedBytes }

    /// How often memory had to come from the system so far: a training step after the first asks for none.
    public var systemAllocations: Int { allocator.systemAllocations }

    /// Gives cached memory back to the system.
    public func trim() { allocator.trim() }

    // MARK: Memory

    public func allocate(byteCount: Int, kind: MemoryKind) -> Storage {
        ledger.add(byteCount, kind)
        return Storage(device: self, address: allocator.allocate(byteCount), byteCount: byteCount, kind: kind)
    }

    public func release(address: UnsafeMutableRawPointer, byteCount: Int, kind: MemoryKind) {
        ledger.remove(byteCount, kind)
        allocator.release(address, byteCount)
    }

    public func write(_ bytes: UnsafeRawBufferPointer, into out: Tensor) {
        if let base = bytes.baseAddress, bytes.count > 0 { out.address.copyMemory(from: base, byteCount: bytes.count) }
    }

    public func read(_ x: Tensor, into bytes: UnsafeMutableRawBufferPointer) {
        if let base = bytes.baseAddress, x.byteCount > 0 { base.copyMemory(from: x.address, byteCount: x.byteCount) }
    }
}

extension DType {
    /// The number by which the C kernels know this type.
    var kernelCode: Int32 {
        switch self {
        case .float32: Int32(RZ_F32)
        case .float64: Int32(RZ_F64)
        case .bfloat16: Int32(RZ_BF16)
        case .float16: Int32(RZ_F16)
        case .int32: Int32(RZ_I32)
        case .int64: Int32(RZ_I64)
        case .bool: Int32(RZ_BOOL)
        }
    }
}

/// Set once in a process: OpenBLAS does not promise that it may be set while products run.
private let singleThreadedProducts: Void = openblas_set_num_threads(1)
