import ArgumentParser
import AttentionCore
import BlockwiseAttention
import DistributedCore
import Foundation
import TensorCore
import ZooCore
import ZooStandard

/// What a benchmark can ask for beside the mask.
struct BenchTerms: ParsableArguments {
    @Option(help: "Packed documents of this many tokens each.") var documents: Int?
    @Option(help: "Soft cap of the logits.") var softCap: Double?
    @Flag(help: "One sink a head.") var sinks = false
    @Flag(help: "A bias [1, 1, T, T] that all heads share.") var bias = false
    @Option(help: "Only the last so many tokens ask (decoding); not with several ranks.") var queries: Int?

    /// "documents 1024 bias", for reports.
    var name: String {
        [
            documents.map { "documents \($0)" }, softCap.map { "cap \($0)" }, sinks ? "sinks" : nil,
            bias ? "bias" : nil,
            queries.map { "queries \($0)" },
        ].compactMap { $0 }.joined(separator: " ")
    }

    /// Whether memory is the limit, and all keys are read.
    func readsEveryKey(_ mask: AttentionMask) -> Bool { queries != nil && documents == nil && mask.window == nil }

    func check(ranks: Int) throws {
        if let documents, documents < 1 {
            throw RingZooError(.usage, "--documents is \(documents)", tried: ["at least 1 would work"])
        }
        if let softCap, !(softCap > 0) {
            throw RingZooError(.usage, "--soft-cap is \(softCap)", tried: ["a number above 0 would work"])
        }
        if let queries, queries < 1 || ranks > 1 {
            throw RingZooError(
                .usage, "--queries is \(queries), --ranks \(ranks)", tried: ["at least 1 query on 1 rank would work"])
        }
    }
}

struct AttentionBenchCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "bench", abstract: "Measure attention: medians of forward, and of forward and backward.",
        discussion: """
            Example: ringzoo attention bench --backends cpu,blas --shapes 1,8,8,4096,128 --mask causal --json
                     mpirun -n 2 ringzoo attention bench --backends ring --shapes 1,4,4,8192,64 --mask causal

            FLOPs are 4 B H D for every visible pair of query and key, 3.5 times that for forward and backward; half of all pairs are visible \
            under a causal mask. The ceiling is what multiply-adds in registers reach on the same threads, measured beside each case; % is of \
            it. Peak bytes are what the device's allocator had live at once, inputs and results included.
            With --queries, where memory is the limit, and without a window or documents, a row ends with the rate at which the forward call \
            reads K and V, and its share of the rate at which the same threads do nothing but read them, measured beside it too.
            """)

    @Option(help: "Backends, separated by commas.") var backends = "cpu,blas"
    @Option(parsing: .upToNextOption, help: "B,H,Hkv,T,D, one or more.") var shapes: [String] = ["1,8,8,4096,128"]
    @OptionGroup var mask: MaskOptions
    @OptionGroup var terms: BenchTerms
    @Option(help: "float32, float64 or bf16.") var dtype = "float32"
    @Option(help: "Ranks of a distributed backend; 1, or as many as mpirun started, where left out.") var ranks: Int?
    @Option(help: "What carries messages between ranks: auto, threads or mpi.") var link = ParallelSection.Link.auto
    @Option(help: "Layout of the sequence over ranks.") var layout = SequenceLayout.zigzag
    @OptionGroup var cut: CutOptions
    @Option(help: "Measure for at least this many seconds each.") var seconds = 1.0
    @Option(help: "Measure at least this many runs each, after one that is not counted.") var runs = 3
    @Flag(help: "One JSON object a line on standard output.") var json = false

    func run() throws {
        let type: DType
        switch dtype {
        case "float32": type = .float32
        case "float64": type = .float64
        case "bf16", "bfloat16": type = .bfloat16
        default:
            throw RingZooError(.usage, "--dtype is '\(dtype)'", tried: ["float32, float64 or bf16 would work"])
        }
        if let ranks, ranks < 1 { throw RingZooError(.usage, "--ranks is \(ranks)", tried: ["at least 1 would work"]) }
        let attentionMask = try mask.attentionMask()
        let name = [mask.name, terms.name].filter { !$0.isEmpty }.joined(separator: " ")
        let zoo = try ZooStandard.zoo()
        let all = try RankChoice(link: link, ranks: ranks, in: zoo, words: .options())
        try terms.check(ranks: all.ranks)
        if all.holdsFirstRank { Terminal.note(Ringzoo.versionText) }
        if !json && all.holdsFirstRank {
            print(
                "backend   B   H Hkv       T    D  mask      dtype     forward s  GFLOP/s  % of ceiling   fwd+bwd s  GFLOP/s"
                    + "  % of ceiling        peak"
                    + (terms.readsEveryKey(attentionMask) ? "    K, V GB/s  % of reading" : "")
            )
        }
        for shape in shapes {
            let numbers = shape.split(separator: ",").compactMap { Int($0) }
            guard numbers.count == 5, numbers.allSatisfy({ $0 > 0 }), numbers[1] % numbers[2] == 0 else {
                throw RingZooError(
                    .usage, "--shapes '\(shape)'",
                    tried: ["B,H,Hkv,T,D with whole numbers above 0, H a multiple of Hkv: 1,8,8,4096,128"])
            }
            for backend in backends.split(separator: ",").map(String.init) {
                let provider = try zoo.attention.entry(backend)
                let group =
                    try provider.isDistributed ? all : RankChoice(link: link, ranks: 1, in: zoo, words: .options())
                let choice = try AttentionChoice(
                    backend: backend, local: "auto", headRanks: provider.takesHeadRanks ? cut.headRanks : nil,
                    ranks: group.ranks, in: zoo)
                let shards = layout.shards(
                    length: numbers[3], size: group.ranks,
                    shares: provider.isDistributed ? try cut.sharesOfRanks(group.ranks) : nil)
                let measure = try AttentionMeasurement(
                    choice, on: group, numbers, attentionMask, terms, type, shards, seconds: seconds,
                    runs: max(1, runs))
                if group.holdsFirstRank { print(json ? try measure.json(name) : measure.row(name)) }
            }
        }
    }
}

/// Medians of one shape on one backend.
struct AttentionMeasurement {
    let backend: String
    let shape: [Int]
    let dtype: DType
    let threads: Int
    let ranks: Int
    let forwardSeconds, forwardBackwardSeconds: Double
    let forwardFLOPs: Double
    /// Floating-point operations a second that the threads of all ranks reach in registers, measured before, between and after.
    let ceiling: Double
    /// Of the rank that needed most.
    let peakBytes: Int
    /// Bytes of K and V a second, in the forward call and by threads that do nothing else, measured like the ceiling; only for decoding.
    let reading: (forward: Double, ceiling: Double)?

    init(
        _ choice: AttentionChoice, on group: RankChoice, _ shape: [Int], _ mask: AttentionMask, _ terms: BenchTerms,
        _ dtype: DType, _ shards: [Positions], seconds: Double, runs minimumRuns: Int
    ) throws {
        struct Times: Sendable { var forward, both, ceiling, reading: Double; var peak, threads: Int }
        let task = "\(choice.description) \(shape) \(mask) \(terms) \(dtype) \(shards) \(seconds) \(minimumRuns)"
        let times = try group.run(as: RankIdentity(task: task), threads: Terminal.threads(), deadline: 60) {
            communicator, device -> [Times] in
            let (B, H, Hkv, T, D) = (shape[0], shape[1], shape[2], shape[3], shape[4])
            let wide: DType = dtype == .float64 ? .float64 : .float32
            let keys = shards[communicator.rank]
            let queries = terms.queries.map { Positions.contiguous(from: max(0, T - $0), count: min(T, $0)) } ?? keys
            func tensor(_ key: UInt64, _ shape: [Int], _ type: DType) -> Tensor {
                Tensor.random(.normal, shape, wide, key: key &+ 100 &* UInt64(communicator.rank), on: device).cast(
                    to: type)
            }
            let (q, dOut) = (tensor(1, [B, H, queries.count, D], dtype), tensor(4, [B, H, queries.count, D], dtype))
            let (k, v) = (tensor(2, [B, Hkv, keys.count, D], dtype), tensor(3, [B, Hkv, keys.count, D], dtype))
            var mask = mask
            mask.softCap = terms.softCap
            if terms.sinks { mask.sinks = tensor(5, [H], wide) }
            if terms.bias { mask.bias = tensor(6, [1, 1, queries.count, T], wide) }
            if let length = terms.documents {
                func documents(_ positions: Positions) -> Tensor {
                    Tensor(positions.indices.map { Int32($0 / length) }, on: device).reshaped([1, positions.count])
                }
                mask.documents = .init(queries: documents(queries), keys: documents(keys))
            }
            var problem = AttentionProblem(
                heads: H, keyHeads: Hkv, headSize: D, dtype: dtype, queries: queries, keys: keys, mask: mask)
            let ids = terms.documents.map { length in (0..<T).map { Int32($0 / length) } }
            problem.shards = SequenceShard.all(shards, documents: ids, length: T)
            let backend = try choice.make(over: communicator)
            device.ledger.resetPeak()
            /// Ranks must agree on how often to run: rank 0 decides.
            func median(_ body: () throws -> Void) throws -> Double {
                try body()
                var runs: [Double] = []
                let begin = Date()
                while true {
                    try communicator.barrier()
                    let start = Date()
                    try body()
                    try communicator.barrier()
                    runs.append(Date().timeIntervalSince(start))
                    let enough = runs.count >= minimumRuns && Date().timeIntervalSince(begin) >= seconds
                    let decision = try communicator.broadcast(Message([], integers: [enough ? 1 : 0]), from: 0)
                    if decision.integers[0] == 1 { return runs.sorted()[runs.count / 2] }
                }
            }
            // All ranks at once, as they will run.
            func ceiling() throws -> Double {
                try communicator.barrier()
                return BlockwiseAttention.arithmeticCeiling(dtype, on: device.pool)
            }
            func reading() -> Double {
                guard terms.readsEveryKey(mask) else { return 0 }
                return [k, v].map { MachineCeilings.readRate(of: $0, on: device.pool) }.max()!
            }
            var (ceilings, readings) = ([try ceiling()], [reading()])
            let forward = try median { _ = try backend.forward(q: q, k: k, v: v, problem) }
            ceilings.append(try ceiling())
            readings.append(reading())
            let both = try median {
                let result = try backend.forward(q: q, k: k, v: v, problem)
                _ = try backend.backward(dOut: dOut, q: q, k: k, v: v, result, problem)
            }
            ceilings.append(try ceiling())
            readings.append(reading())
            let own = Tensor([forward, both, ceilings.sorted()[1], readings.sorted()[1]], on: device)
            let counts = [device.ledger.peak(), device.pool.workers]
            return try communicator.allGather(Message([own], integers: counts)).map { message in
                let (times, counts) = (message.tensors[0].doubles, message.integers)
                return Times(
                    forward: times[0], both: times[1], ceiling: times[2], reading: times[3], peak: counts[0],
                    threads: counts[1])
            }
        }
        self.backend = choice.description
        self.shape = shape
        self.dtype = dtype
        threads = times.map(\.threads).reduce(0, +)
        ranks = times.count
        forwardSeconds = times.map(\.forward).max()!
        forwardBackwardSeconds = times.map(\.both).max()!
        peakBytes = times.map(\.peak).max()!
        ceiling = times.map(\.ceiling).reduce(0, +)
        let keyBytes = 2 * shape[0] * shape[2] * shape[3] * shape[4] * dtype.byteCount
        reading = terms.readsEveryKey(mask) ? (Double(keyBytes) / forwardSeconds, times[0].reading) : nil
        forwardFLOPs = 4 * Double(shape[0] * shape[1] * shape[4]) * Self.visiblePairs(shape[3], mask, terms)
    }

    /// Pairs of query and key that the mask shows, the diagonal of a causal mask counted half.
    private static func visiblePairs(_ T: Int, _ mask: AttentionMask, _ terms: BenchTerms) -> Double {
        (max(0, T - (terms.queries ?? T))..<T).reduce(0.0) { sum, i in
            var (first, last) = (0, mask.causal ? i : T - 1)
            if let window = mask.window { (first, last) = (max(first, i - window.back), min(last, i + window.ahead)) }
            if let length = terms.documents {
                (first, last) = (max(first, i / length * length), min(last, i / length * length + length - 1))
            }
            return sum + Double(max(0, last - first + 1)) - (mask.causal ? 0.5 : 0)
        }
    }

    func json(_ mask: String) throws -> String {
        var object: [String: Any] = [
            "backend": backend, "batch": shape[0], "heads": shape[1], "kvHeads": shape[2], "tokens": shape[3],
            "headSize": shape[4], "mask": mask, "dtype": dtype == .bfloat16 ? "bf16" : dtype.rawValue,
            "threads": threads,
            "ranks": ranks, "kernelSet": "\(BlockwiseAttention.kernels)+\(CPUDevice.productKernels)",
            "forwardSeconds": forwardSeconds, "forwardBackwardSeconds": forwardBackwardSeconds,
            "forwardGFLOPS": forwardFLOPs / forwardSeconds / 1e9,
            "forwardBackwardGFLOPS": 3.5 * forwardFLOPs / forwardBackwardSeconds / 1e9, "peakBytes": peakBytes,
            "ceilingGFLOPS": ceiling / 1e9,
        ]
        if let reading {
            object["keyGigabytes"] = reading.forward / 1e9
            object["readGigabytes"] = reading.ceiling / 1e9
        }
        let data = try JSONSerialization.data(withJSONObject: object, options: [.sortedKeys, .withoutEscapingSlashes])
        return String(decoding: data, as: UTF8.self)
    }

    func row(_ mask: String) -> String {
        let numbers = [(shape[0], 3), (shape[1], 4), (shape[2], 4), (shape[3], 8), (shape[4], 5)]
        func rate(_ operations: Double, _ seconds: Double) -> String {
            leading(Terminal.number(operations / seconds / 1e9, 1), 9)
                + leading(Terminal.number(100 * operations / seconds / ceiling, 1), 14)
        }
        return padded(backend, 8) + numbers.map { leading("\($0.0)", $0.1) }.joined() + "  "
            + padded(mask, max(10, mask.count + 2))
            + padded(dtype.rawValue, 9) + leading(Terminal.number(forwardSeconds), 10)
            + rate(forwardFLOPs, forwardSeconds) + leading(Terminal.number(forwardBackwardSeconds), 12)
            + rate(3.5 * forwardFLOPs, forwardBackwardSeconds) + leading(byteText(peakBytes), 12)
            + (reading.map { reading in
                leading(Terminal.number(reading.forward / 1e9, 1), 13)
                    + leading(Terminal.number(100 * reading.forward / reading.ceiling, 1), 14)
            } ?? "")
    }
}
