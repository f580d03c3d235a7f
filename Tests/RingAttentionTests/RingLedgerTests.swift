import AttentionCore
import ConformanceKit
import DistributedCore
import TensorCore
import Testing

/// Correctness bar 6: what a rank holds and what it sends.
@Suite struct RingLedgerTests {
    /// One direction on one rank.
    struct Reading: Sendable {
        /// The most bytes at once beyond the inputs.
        var peak: Int
        /// Bytes of the results.
        var outputs: Int
        var traffic: Traffic
    }

    struct Readings: Sendable {
        var forward, backward: Reading
        var rank: Int
        var tokens: Int
    }

    /// A problem by its sizes; the numbers do not matter here. The window keeps long sequences cheap, and blocks that it hides travel
    /// all the same.
    struct Sizes: Sendable {
        var local: LocalKernel
        var dtype: DType
        var length: Int
        var ranks: Int
        var layout = SequenceLayout.zigzag
        /// Whether q, k, v lie in [B, H, T, D] memory already, or in that of a projection, [B, T, H, D].
        var packed = false

        static let (heads, keyHeads, headSize) = (4, 2, 64)

        func problem(_ own: Positions, on device: any Device) -> AttentionProblem {
            let ids = Tensor(own.indices.map { Int32($0 * 3 / length) }, [1, own.count], on: device)
            return AttentionProblem(
                heads: Self.heads, keyHeads: Self.keyHeads, headSize: Self.headSize, dtype: dtype, queries: own,
                keys: own,
                mask: AttentionMask(
                    causal: true, window: .init(back: 100), documents: .init(queries: ids, keys: ids)))
        }

        func tensor(_ heads: Int, _ tokens: Int, on device: any Device) -> Tensor {
            let shape = packed ? [1, heads, tokens, Self.headSize] : [1, tokens, heads, Self.headSize]
            let tensor = Tensor.full(shape, 0.5, dtype, on: device)
            return packed ? tensor : tensor.permuted([0, 2, 1, 3])
        }

        /// Bytes of the keys and values of so many tokens, as they travel.
        func pair(_ tokens: Int) -> Int { 2 * Self.keyHeads * tokens * Self.headSize * dtype.byteCount }

        /// And of their float32 gradients.
        func gradientPair(_ tokens: Int) -> Int { 2 * Self.keyHeads * tokens * Self.headSize * 4 }

        /// Rows (reference, sum, lse, delta, and their float64 temporaries); positions and documents of both sides.
        func rows(_ tokens: Int) -> Int { 40 * Self.heads * tokens + 24 * tokens }
    }

    static func readings(_ sizes: Sizes) throws -> [Readings] {
        try InProcessRanks.run(sizes.ranks, threads: sizes.ranks) { communicator, device in
            let own = sizes.layout.positions(length: sizes.length, rank: communicator.rank, size: sizes.ranks)
            let problem = sizes.problem(own, on: device)
            let q = sizes.tensor(Sizes.heads, own.count, on: device)
            let (k, v) = (
                sizes.tensor(Sizes.keyHeads, own.count, on: device), sizes.tensor(Sizes.keyHeads, own.count, on: device)
            )
            let dOut = sizes.tensor(Sizes.heads, own.count, on: device)
            let backend = sizes.local.ring(communicator)
            func read<R>(_ body: () throws -> R, _ outputs: (R) -> [Tensor]) throws -> (R, Reading) {
                try communicator.barrier()
                let (live, sent) = (device.ledger.live(), communicator.traffic)
                device.ledger.resetPeak()
                let result = try body()
                let reading = Reading(
                    peak: device.ledger.peak() - live, outputs: outputs(result).reduce(0) { $0 + $1.byteCount },
                    traffic: communicator.traffic - sent)
                return (result, reading)
            }
            let (result, forward) = try read({ try backend.forward(q: q, k: k, v: v, problem) }) { [$0.out, $0.lse] }
            let (_, backward) = try read({
                try backend.backward(dOut: dOut, q: q, k: k, v: v, result, problem)
            }) { [$0.q, $0.k, $0.v] }
            return Readings(forward: forward, backward: backward, rank: communicator.rank, tokens: own.count)
        }
    }

    static let settings = LocalKernel.allCases.flatMap { local in [DType.float32, .bfloat16].map { (local, $0) } }

    /// What the kernels work in: all that is left on one rank with few tokens.
    static func workspace(_ local: LocalKernel, _ dtype: DType) throws -> Int {
        let reading = try readings(Sizes(local: local, dtype: dtype, length: 64, ranks: 1))[0]
        return max(reading.forward.beyondOutputs, reading.backward.beyondOutputs)
    }

    /// Beyond inputs and results: two pairs of keys and values (the block in use and the one arriving), and in the backward a second
    /// pair of their gradients (the results are the first), at every ring size and wherever the inputs lie in memory.
    @Test(arguments: settings)
    func aRankHoldsTwoBlocks(_ local: LocalKernel, _ dtype: DType) throws {
        let workspace = try Self.workspace(local, dtype)
        // So many tokens that a third pair would stand out beside workspace and rows.
        let tokens = dtype == .float32 ? 2048 : 4096
        for ranks in TestScale.ringSizes {
            for layout in ranks == 3 ? SequenceLayout.allCases : [.zigzag] {
                for packed in ranks == 3 ? [false, true] : [false] {
                    let sizes = Sizes(
                        local: local, dtype: dtype, length: tokens * ranks, ranks: ranks, layout: layout, packed: packed
                    )
                    // Nothing travels on one rank.
                    let pairs = ranks == 1 ? 0 : 2
                    let beside = sizes.rows(tokens) + workspace
                    #expect(beside < sizes.pair(tokens), "a pair too many would not show")
                    for reading in try Self.readings(sizes) {
                        let (forward, backward) = (reading.forward.beyondOutputs, reading.backward.beyondOutputs)
                        #expect(
                            forward <= pairs * sizes.pair(tokens) + beside, "\(sizes), rank \(reading.rank), forward")
                        #expect(
                            backward <= pairs * sizes.pair(tokens) + pairs / 2 * sizes.gradientPair(tokens) + beside,
                            "\(sizes), rank \(reading.rank), backward")
                    }
                }
            }
        }
    }

    /// With as many tokens each, a rank among many holds what one of three holds, to the byte.
    @Test(arguments: settings)
    func memoryPerRankDoesNotDependOnTheRing(_ local: LocalKernel, _ dtype: DType) throws {
        func peaks(_ ranks: Int) throws -> [Int] {
            let readings = try Self.readings(
                Sizes(local: local, dtype: dtype, length: 512 * ranks, ranks: ranks, layout: .contiguous))
            return [readings.map(\.forward.peak).max()!, readings.map(\.backward.peak).max()!]
        }
        let three = try peaks(3)
        for ranks in TestScale.ringSizes where ranks > 3 {
            #expect(try peaks(ranks) == three, "\(ranks) ranks")
        }
    }

    /// On one rank nothing travels, and what is left besides rows does not grow with the sequence.
    @Test(arguments: settings)
    func workspaceDoesNotDependOnTheLength(_ local: LocalKernel, _ dtype: DType) throws {
        func beyond(_ tokens: Int) throws -> [Int] {
            let reading = try Self.readings(Sizes(local: local, dtype: dtype, length: tokens, ranks: 1))[0]
            return [reading.forward.beyondOutputs, reading.backward.beyondOutputs]
        }
        let (short, long) = (try beyond(512), try beyond(8192))
        let rows = Sizes(local: local, dtype: dtype, length: 0, ranks: 1).rows(8192 - 512)
        for (short, long) in zip(short, long) { #expect(long - short <= rows, "\(short) bytes, then \(long)") }
    }

    /// N - 1 messages forward and 2N - 1 backward, and the bytes are those of the blocks that pass through, in uneven shards too.
    @Test(arguments: settings)
    func trafficEqualsTheFormula(_ local: LocalKernel, _ dtype: DType) throws {
        for ranks in TestScale.ringSizes {
            for layout in SequenceLayout.allCases {
                // A prime: no ring size divides it.
                let sizes = Sizes(local: local, dtype: dtype, length: 67, ranks: ranks, layout: layout)
                let readings = try Self.readings(sizes)
                for reading in readings {
                    // At hop h this rank passes on the block of rank - h: keys, values and the documents of its keys.
                    func blocks(_ hops: Int, _ bytes: (Int) -> Int) -> Int {
                        (0..<hops).reduce(0) { $0 + bytes(readings[(reading.rank + ranks - $1) % ranks].tokens) }
                    }
                    let keys = blocks(ranks - 1) { sizes.pair($0) + 4 * $0 }
                    let gradients = blocks(ranks == 1 ? 0 : ranks) { sizes.gradientPair($0) }
                    let (forward, backward) = (reading.forward.traffic, reading.backward.traffic)
                    #expect(forward == Traffic(messages: ranks - 1, bytes: keys), "\(sizes), rank \(reading.rank)")
                    let messages = ranks == 1 ? 0 : 2 * ranks - 1
                    #expect(
                        backward == Traffic(messages: messages, bytes: keys + gradients),
                        "\(sizes), rank \(reading.rank)")
                }
            }
        }
    }

    /// Forward and backward of one device: linear in the length, far below one T x T matrix.
    @Test(arguments: LocalKernel.allCases)
    func memoryIsLinearInTheLength(_ local: LocalKernel) throws {
        func peak(_ length: Int) throws -> Int {
            let device = CPUDevice()
            let inputs = AttentionCase("length", heads: 1, length: length, headSize: 16, .init(causal: true))
                .inputs(on: device)
            device.ledger.resetPeak()
            let out = try valueAndGradient(at: [inputs.q, inputs.k, inputs.v]) { x in
                (try attend(x[0], x[1], x[2], inputs.problem, on: local.backend) * inputs.dOut).sum()
            }
            #expect(out.gradients.count == 3)
            return device.ledger.peak()
        }
        let peaks = try [1024, 2048, 4096, 8192].map { try peak($0) }
        // Twice the length is less than twice the memory, the workspace being the same.
        for (shorter, longer) in zip(peaks, peaks.dropFirst()) { #expect(longer <= 2 * shorter, "\(peaks)") }
        #expect(peaks[3] < 8192 * 8192 / 8, "\(peaks[3]) bytes; T x T numbers would be 256 MiB, T x T bits 8 MiB")
    }
}

extension RingLedgerTests.Reading {
    var beyondOutputs: Int { peak - outputs }
}
