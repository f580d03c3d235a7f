import AttentionCore
import CAttentionKernels
import CTensorKernels
import TensorCore

/// A tensor as the kernels see it; copied only where its last axis is not contiguous.
struct KernelTensor {
    private let tensor: Tensor

    init(_ tensor: Tensor) {
        let tensor = tensor.detached
        self.tensor = tensor.strides[3] == 1 || tensor.shape[3] == 1 ? tensor : tensor.contiguous()
    }

    /// Valid while this value lives.
    var view: rz_attention_tensor {
        let storage: rz_storage =
            switch tensor.dtype {
            case .float64: RZ_STORAGE_FLOAT64
            case .bfloat16: RZ_STORAGE_BFLOAT16
            case .float16: RZ_STORAGE_FLOAT16
            default: RZ_STORAGE_FLOAT32
            }
        return rz_attention_tensor(
            data: UnsafeRawPointer(tensor.address), storage: storage, batch_stride: Int64(tensor.strides[0]),
            head_stride: Int64(tensor.strides[1]), token_stride: Int64(tensor.strides[2]))
    }
}

/// Strides with 0 along axes of extent 1, as the kernels want them for a bias.
func broadcastStrides(_ tensor: Tensor) -> [Int64] {
    zip(tensor.shape, tensor.strides).map { $0 == 1 ? 0 : Int64($1) }
}

/// One call into the kernels: the tensors, the problem in C's form, and the memory both need. Everything is allocated on the
/// device, so that the ledger sees it.
struct KernelCall {
    let q, k, v: KernelTensor
    private let problem: AttentionProblem
    private let products: rz_attention_products
    private let device: any Device
    private let batch: Int
    private let queryPositions, keyPositions: Tensor
    private let queryDocuments, keyDocuments: Tensor?
    private let bias: Tensor?

    init(
        _ q: Tensor, _ k: Tensor, _ v: Tensor, _ problem: AttentionProblem, _ products: rz_attention_products
    ) throws {
        guard q.device is CPUDevice || q.device is RehearsalDevice else {
            throw RingZooError(
                .config, "this attention backend runs on the CPU, but its tensors are on \(q.device.name)")
        }
        problem.check(q: q, k: k, v: v)
        device = q.device
        self.problem = problem
        self.products = products
        batch = q.shape[0]
        self.q = KernelTensor(q)
        self.k = KernelTensor(k)
        self.v = KernelTensor(v)
        queryPositions = Self.tensor(of: problem.queries, on: device)
        keyPositions = Self.tensor(of: problem.keys, on: device)
        queryDocuments = problem.mask.documents?.queries.contiguous()
        keyDocuments = problem.mask.documents?.keys.contiguous()
        bias = problem.mask.bias?.detached
    }

    /// Positions as int64 [count], written once: decoding lists those of a whole context for every token.
    private static func tensor(of positions: Positions, on device: any Device) -> Tensor {
        let tensor = Tensor(uninitialised: [positions.count], .int64, on: device)
        if device is RehearsalDevice { return tensor }
        var next = tensor.address.assumingMemoryBound(to: Int64.self)
        for run in positions.runs {
            for row in 0..<run.count { next[row] = Int64(run.start + row * run.stride) }
            next += run.count
        }
        return tensor
    }

    /// Uninitialised memory that lives as long as the tensor returned.
    func workspace(_ byteCount: Int) -> Tensor { Tensor(uninitialised: [max(64, byteCount)], .bool, on: device) }

    /// On a rehearsal, lets the time of so many matrix products over the visible pairs pass, and says that nothing is to be computed.
    func isRehearsed(products: Int) -> Bool {
        guard let rehearsal = device as? RehearsalDevice else { return false }
        rehearsal.spend(
            .attention, flops: problem.flops(products: products, batch: batch), rate: rehearsal.speed.attention)
        return true
    }

    private var executor: rz_attention_executor {
        if let rehearsal = device as? RehearsalDevice {
            return rz_attention_executor(run: nil, pool: nil, workers: Int64(rehearsal.workers))
        }
        let pool = (device as! CPUDevice).pool
        return rz_attention_executor(
            run: { pool, count, body, argument in rz_pool_run(OpaquePointer(pool!), count, body!, argument) },
            pool: UnsafeMutableRawPointer(pool.handle), workers: Int64(pool.workers))
    }

    /// Calls `body` with the problem and the device's threads.
    func run(
        _ body: (UnsafePointer<rz_attention_problem>, UnsafePointer<rz_attention_executor>) -> Int64
    ) -> Int {
        var p = rz_attention_problem()
        p.batch = Int64(batch)
        p.heads = Int64(problem.heads)
        p.kv_heads = Int64(problem.keyHeads)
        p.query_count = Int64(queryPositions.elementCount)
        p.key_count = Int64(keyPositions.elementCount)
        p.head_size = Int64(problem.headSize)
        p.scale = problem.scale
        p.query_positions = UnsafePointer(queryPositions.address.assumingMemoryBound(to: Int64.self))
        p.key_positions = UnsafePointer(keyPositions.address.assumingMemoryBound(to: Int64.self))
        p.causal = problem.mask.causal
        p.window_back = problem.mask.window.map { Int64($0.back) } ?? -1
        p.window_ahead = problem.mask.window.map { Int64($0.ahead) } ?? -1
        if let queryDocuments, let keyDocuments {
            p.query_documents = UnsafePointer(queryDocuments.address.assumingMemoryBound(to: Int32.self))
            p.key_documents = UnsafePointer(keyDocuments.address.assumingMemoryBound(to: Int32.self))
            p.query_document_batch_stride = queryDocuments.shape[0] == 1 ? 0 : p.query_count
            p.key_document_batch_stride = keyDocuments.shape[0] == 1 ? 0 : p.key_count
        }
        p.soft_cap = problem.mask.softCap ?? 0
        if let bias {
            p.bias = UnsafeRawPointer(bias.address)
            let s = broadcastStrides(bias)
            p.bias_strides = (s[0], s[1], s[2], s[3])
        }
        if let dropout = problem.mask.dropout {
            p.dropout = dropout.probability
            p.dropout_seed = dropout.seed
            p.first_head = Int64(problem.firstHead)
        }
        p.products = products
        var executor = executor
        // Everything the C structs point at is held by `self` until the call has returned.
        return withExtendedLifetime(self) {
            guard let slopes = problem.mask.alibiSlopes else { return Int(body(&p, &executor)) }
            return slopes.withUnsafeBufferPointer { slopes in
                p.alibi_slopes = slopes.baseAddress
                return Int(body(&p, &executor))
            }
        }
    }
}
