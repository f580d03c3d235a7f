import CAttentionKernels
import Foundation
import Synchronization

/// The two compute types of the kernels, and their entry points.
protocol KernelReal: BinaryFloatingPoint, Sendable {
    typealias Tensor = UnsafePointer<rz_attention_tensor>?
    typealias Values = UnsafeMutablePointer<Self>?

    static var forward:
        (
            UnsafePointer<rz_attention_problem>?, Tensor, Tensor, Tensor, Values, Values, Values,
            UnsafePointer<rz_attention_executor>?, UnsafeMutableRawPointer?
        ) -> Int64
    { get }
    static var backward:
        (
            UnsafePointer<rz_attention_problem>?, Tensor, Tensor, Tensor, Tensor, UnsafePointer<Double>?,
            UnsafePointer<Self>?, Values, Values, Values, Values, UnsafePointer<Int64>?,
            UnsafePointer<rz_attention_executor>?, UnsafeMutableRawPointer?
        ) -> Int64
    { get }
    static var tolerance: (absolute: Double, relative: Double) { get }
}

extension Float: KernelReal {
    static let tolerance = (absolute: 2e-6, relative: 1e-5)
    static let forward = rz_attention_forward_f32
    static let backward = rz_attention_backward_f32
}

extension Double: KernelReal {
    static let tolerance = (absolute: 1e-12, relative: 0.0)
    static let forward = rz_attention_forward_f64
    static let backward = rz_attention_backward_f64
}

/// What the kernels made of a case.
struct KernelRun<Real: KernelReal> {
    var m: [Real] = []
    var l: [Real] = []
    var acc: [Real] = []
    var out: [Real] = []
    var lse: [Double] = []
    var dq: [Real] = []
    var dk: [Real] = []
    var dv: [Real] = []
    var dbias: [Real] = []
    var forwardPairs: Int64 = 0
    var backwardPairs: Int64 = 0
    var oracle: Oracle?
    /// The same as one would write it in bf16, where the case stores its inputs so.
    var naive: Oracle?

    /// Runs forward over `splits` of the keys in their order (all keys at once by default), then backward over the same.
    init(
        _ c: AttentionCase, _: Real.Type, splits: [Range<Int>]? = nil, workers: Int = 1,
        products: rz_attention_products = .init(), withOracle: Bool = true
    ) {
        let shape = (c.batch, c.heads, c.queries, c.size)
        let keyShape = (c.batch, c.kvHeads, c.keys, c.size)
        let q = StoredTensor(c.q, shape, c.stored, tokensFirst: c.tokensFirst)
        let k = StoredTensor(c.k, keyShape, c.stored, tokensFirst: c.tokensFirst)
        let v = StoredTensor(c.v, keyShape, c.stored, tokensFirst: c.tokensFirst)
        let dout = StoredTensor(c.dout, shape, c.stored, tokensFirst: c.tokensFirst)
        let rows = c.batch * c.heads * c.queries
        m = .init(repeating: -.infinity, count: rows)
        l = .init(repeating: 0, count: rows)
        acc = .init(repeating: 0, count: rows * c.size)
        dq = .init(repeating: 0, count: rows * c.size)
        dk = .init(repeating: 0, count: c.k.count)
        dv = .init(repeating: 0, count: c.v.count)
        dbias = .init(repeating: 0, count: c.bias?.count ?? 0)
        let bias = c.bias.map { $0.map { Real($0) } }
        let splits = splits ?? [0..<c.keys]
        let executor = rz_attention_executor(
            run: runOnThreads, pool: UnsafeMutableRawPointer(bitPattern: workers), workers: Int64(workers))

        for split in splits {
            withProblem(c, split, bias, products) { problem in
                let bytes = rz_attention_forward_workspace(problem, MemoryLayout<Real>.size, Int64(workers))
                withWorkspace(bytes) {
                    forwardPairs += Real.forward(
                        problem, [q.view()], [k.view(from: split.lowerBound)], [v.view(from: split.lowerBound)],
                        &m, &l, &acc, [executor], $0)
                }
            }
        }
        lse = zip(m, l).map { $1 == 0 ? -.infinity : Double($0) * log(2) + log(Double($1)) }
        out = acc.indices.map { l[$0 / c.size] == 0 ? 0 : acc[$0] / l[$0 / c.size] }
        let delta = (0..<rows).map { row in
            Real((0..<c.size).reduce(0.0) { $0 + dout.values[row * c.size + $1] * Double(out[row * c.size + $1]) })
        }
        for split in splits {
            var part = [Real](repeating: 0, count: c.batch * c.kvHeads * split.count * c.size)
            var vPart = part
            withProblem(c, split, bias, products) { problem in
                let bytes = rz_attention_backward_workspace(problem, MemoryLayout<Real>.size, Int64(workers))
                withWorkspace(bytes) { workspace in
                    dbias.withUnsafeMutableBufferPointer { dbias in
                        backwardPairs += Real.backward(
                            problem, [dout.view()], [q.view()], [k.view(from: split.lowerBound)],
                            [v.view(from: split.lowerBound)], lse, delta, &dq, &part, &vPart,
                            c.bias == nil ? nil : dbias.baseAddress, c.biasStrides, [executor], workspace)
                    }
                }
            }
            for head in 0..<(c.batch * c.kvHeads) {
                for j in 0..<(split.count * c.size) {
                    dk[(head * c.keys + split.lowerBound) * c.size + j] += part[head * split.count * c.size + j]
                    dv[(head * c.keys + split.lowerBound) * c.size + j] += vPart[head * split.count * c.size + j]
                }
            }
        }
        guard withOracle else { return }
        let wideBias = bias.map { $0.map { Double($0) } }
        oracle = Oracle(c, q: q.values, k: k.values, v: v.values, dout: dout.values, bias: wideBias)
        guard c.stored == .bfloat16 else { return }
        naive = Oracle(
            c, q: q.values, k: k.values, v: v.values, dout: dout.values, bias: wideBias, rounding: nearestBFloat16)
    }

    /// The largest error of everything, in units of the bound |error| <= s (absolute m + relative |reference|); so 1 passes.
    /// For dbias, m is the largest sum of |dS| behind an element, since the sum itself cancels.
    func worstError() -> (name: String, ratio: Double) {
        guard let oracle else { fatalError("this run was made without the oracle") }
        func wide(_ values: [Real]) -> [Double] { values.map { Double($0) } }
        let compared: [(String, [Double], [Double])] = [
            ("out", wide(out), oracle.out), ("lse", lse, oracle.lse), ("dq", wide(dq), oracle.dq),
            ("dk", wide(dk), oracle.dk), ("dv", wide(dv), oracle.dv), ("dbias", wide(dbias), oracle.dbias),
        ]
        var worst = (name: "nothing", ratio: 0.0)
        for (name, values, references) in compared {
            guard values.count == references.count else { return (name + " has another size", .infinity) }
            let sizes = name == "dbias" ? oracle.dbiasTerms : references
            let largest = sizes.reduce(1.0) { $1.isFinite ? max($0, $1.magnitude) : $0 }
            for (value, reference) in zip(values, references) {
                if value == reference { continue }  // also -inf
                let bound =
                    oracle.spread * (Real.tolerance.absolute * largest + Real.tolerance.relative * reference.magnitude)
                let ratio = (value - reference).magnitude / bound
                if !(ratio <= worst.ratio) { worst = (name, ratio.isNaN ? .infinity : ratio) }
            }
        }
        return worst
    }

    /// RMS errors in units of twice those of the naive bf16 computation; so 1 passes. The naive one may be exact by luck, of one key
    /// always and of few numbers often: the absolute tolerance is added, or one bf16 rounding where there are few.
    func rmsErrors() -> [(name: String, ratio: Double)] {
        guard let oracle, let naive else { fatalError("this run has no naive computation to compare with") }
        func wide(_ values: [Real]) -> [Double] { values.map { Double($0) } }
        func rms(_ values: [Double], _ references: [Double]) -> Double {
            let squares = zip(values, references).reduce(0.0) {
                $1.0 == $1.1 ? $0 : $0 + ($1.0 - $1.1) * ($1.0 - $1.1)  // also -inf
            }
            return (squares / Double(max(1, values.count))).squareRoot()
        }
        let compared: [(String, [Double], [Double], [Double])] = [
            ("out", wide(out), naive.out, oracle.out), ("lse", lse, naive.lse, oracle.lse),
            ("dq", wide(dq), naive.dq, oracle.dq), ("dk", wide(dk), naive.dk, oracle.dk),
            ("dv", wide(dv), naive.dv, oracle.dv), ("dbias", wide(dbias), naive.dbias, oracle.dbias),
        ]
        return compared.map { name, values, naive, references in
            let sizes = name == "dbias" ? oracle.dbiasTerms : references
            let largest = sizes.reduce(1.0) { $1.isFinite ? max($0, $1.magnitude) : $0 }
            let luck = values.count < 500 ? 0x1p-9 : oracle.spread * Real.tolerance.absolute
            let ratio = rms(values, references) / (2 * rms(naive, references) + luck * largest)
            return (name, values.count == references.count && !ratio.isNaN ? ratio : .infinity)
        }
    }

    /// All results as bits, in one array.
    var bits: [UInt64] { [m, l, acc, dq, dk, dv, dbias].flatMap { $0 }.map { Double($0).bitPattern } }
}

private func withWorkspace(_ bytes: Int, _ body: (UnsafeMutableRawPointer) -> Void) {
    let guardBytes = 64
    // Odd on purpose: the kernels align what they are given, and must not write beyond what they asked for.
    let memory = UnsafeMutableRawPointer.allocate(byteCount: bytes + guardBytes + 8, alignment: 64)
    defer { memory.deallocate() }
    memory.initializeMemory(as: UInt8.self, repeating: 0xff, count: bytes + guardBytes + 8)  // NaN
    body(memory + 8)
    for offset in 0..<guardBytes where (memory + 8 + bytes + offset).load(as: UInt8.self) != 0xff {
        fatalError("a kernel wrote beyond its workspace")
    }
}

private func withProblem<Real: KernelReal>(
    _ c: AttentionCase, _ keys: Range<Int>, _ bias: [Real]?, _ products: rz_attention_products,
    _ body: (UnsafePointer<rz_attention_problem>) -> Void
) {
    var problem = rz_attention_problem()
    problem.products = products
    problem.batch = Int64(c.batch)
    problem.heads = Int64(c.heads)
    problem.kv_heads = Int64(c.kvHeads)
    problem.query_count = Int64(c.queries)
    problem.key_count = Int64(keys.count)
    problem.head_size = Int64(c.size)
    problem.scale = c.scale
    problem.causal = c.causal
    problem.window_back = c.back
    problem.window_ahead = c.ahead
    problem.soft_cap = c.softCap
    problem.dropout = c.dropout
    problem.dropout_seed = c.seed
    problem.query_document_batch_stride = c.documentsPerBatch ? Int64(c.queries) : 0
    problem.key_document_batch_stride = c.documentsPerBatch ? Int64(c.keys) : 0
    problem.bias_strides = (c.biasStrides[0], c.biasStrides[1], c.biasStrides[2], c.biasStrides[3])
    c.queryPositions.withUnsafeBufferPointer { queryPositions in
        c.keyPositions.withUnsafeBufferPointer { keyPositions in
            (c.queryDocuments ?? []).withUnsafeBufferPointer { queryDocuments in
                (c.keyDocuments ?? []).withUnsafeBufferPointer { keyDocuments in
                    (c.slopes ?? []).withUnsafeBufferPointer { slopes in
                        (bias ?? []).withUnsafeBufferPointer { bias in
                            problem.query_positions = queryPositions.baseAddress
                            problem.key_positions = keyPositions.baseAddress.map { $0 + keys.lowerBound }
                            if c.queryDocuments != nil {
                                problem.query_documents = queryDocuments.baseAddress
                                problem.key_documents = keyDocuments.baseAddress.map { $0 + keys.lowerBound }
                            }
                            if c.slopes != nil { problem.alibi_slopes = slopes.baseAddress }
                            if c.bias != nil { problem.bias = UnsafeRawPointer(bias.baseAddress) }
                            body(&problem)
                        }
                    }
                }
            }
        }
    }
}

// MARK: the executor

/// One parallel loop: indices are claimed in increasing order, by as many threads as there are workers.
///
/// `@unchecked` because of the C pointer, which is only passed on; the counters are atomic.
private final class ThreadLoop: @unchecked Sendable {
    let count: Int64
    let body: @convention(c) (UnsafeMutableRawPointer?, Int64, Int64) -> Void
    let argument: UnsafeMutableRawPointer?
    let claimed = Atomic<Int64>(0)

    init(
        _ count: Int64, _ body: @escaping @convention(c) (UnsafeMutableRawPointer?, Int64, Int64) -> Void,
        _ argument: UnsafeMutableRawPointer?
    ) {
        self.count = count
        self.body = body
        self.argument = argument
    }

    func work(_ worker: Int64) {
        while true {
            let index = claimed.wrappingAdd(1, ordering: .relaxed).oldValue
            if index >= count { return }
            body(argument, index, worker)
        }
    }
}

/// Real threads, one a worker; `pool` is their number.
private func runOnThreads(
    _ pool: UnsafeMutableRawPointer?, _ count: Int64,
    _ body: (@convention(c) (UnsafeMutableRawPointer?, Int64, Int64) -> Void)?, _ argument: UnsafeMutableRawPointer?
) {
    let loop = ThreadLoop(count, body!, argument)
    let finished = DispatchSemaphore(value: 0)
    let workers = Int(bitPattern: pool)
    for worker in 0..<workers {
        Thread.detachNewThread {
            loop.work(Int64(worker))
            finished.signal()
        }
    }
    for _ in 0..<workers { finished.wait() }
}
