import ArgumentParser
import AttentionCore
import BlockwiseAttention
import CPUAttention
import ConformanceKit
import DistributedCore
import Foundation
import RingAttention
import TensorCore
import ZooCore

/// The ring over a link as slow as a network: how much of the transfer computation hides, and from which block size on all of it.
@main
struct SlowLinkBenchmark: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "slow-link",
        abstract:
            "Measure the ring's overlap over a slow link, below and above the block size that the planner predicts.",
        discussion: """
            Example: slow-link --gigabits 1 --latency 1 --key-heads 2

            Forward, float32, full mask, one thread a rank; a rank's block is all of its tokens. Overlap is the share of the transfer that does \
            not make the ring slower than over a link without limits. The crossover is where it reaches \(Int(100 * hidden)) %, between two of the \
            sizes by the line through them. "planned" is the same on the planner's rehearsal of the ring, with the rates of 'ringzoo plan \
            --measure'; F/(gB) is the paper's bound, for bf16, times the bytes of an element over 2.
            """)

    @Option(help: "Bandwidth of each rank's way out, Gbit/s.") var gigabits = 1.0
    @Option(help: "Latency, ms.") var latency = 1.0
    @Option(help: "Ranks, threads of this process.") var ranks = 2
    @Option(help: "Query heads.") var heads = 8
    @Option(help: "Key/value heads.") var keyHeads = 8
    @Option(help: "Head size.") var headSize = 128
    @Option(help: "Runs of each size, over the slow and over the fast link in turn; the fastest count.") var runs = 5

    /// The share of a transfer that is hidden at the crossover.
    static let hidden = 0.95
    static let elementBytes = DType.float32.byteCount

    /// One block size.
    struct Row {
        var tokens: Int
        var fast, slow, transfer: Double
        var planned: Double
        var overlap: Double { min(1, max(0, 1 - (slow - fast) / transfer)) }
    }

    var link: LinkSpeed { LinkSpeed(bandwidth: gigabits * 1e9 / 8, latency: latency / 1e3) }

    func run() throws {
        let speed = try speed()
        let bound = Double(Self.elementBytes) / 2 * speed.attention / (queriesPerKey * link.bandwidth)
        print(
            "link \(gigabits) Gbit/s, \(latency) ms; \(ranks) ranks, \(heads) heads, \(keyHeads) key heads of \(headSize)"
        )
        print(String(format: "attention %.1f GFLOP/s a rank, F/(gB) %.0f tokens", speed.attention / 1e9, bound))
        print("block tokens  ring s, fast link  slow link  transfer s  overlap  planned")
        // The bound knows no latency: sizes spread around the root of the planner's own balance.
        let center = balance(speed.attention)
        let rows = try [0.5, 0.7, 0.85, 1, 1.15, 1.3, 1.6].map { share in
            let row = try measure(max(16, Int(share * center) / 16 * 16), speed)
            print(
                String(
                    format: "%12d  %17.4f  %9.4f  %10.4f  %5.1f %%  %5.1f %%", row.tokens, row.fast, row.slow,
                    row.transfer, 100 * row.overlap, 100 * row.planned))
            return row
        }
        guard let measured = Self.crossover(rows, \.overlap), let planned = Self.crossover(rows, \.planned) else {
            return print("no crossover within these sizes")
        }
        print(
            String(
                format: "crossover: measured %.0f tokens, planned %.0f, measured/planned %.3f", measured, planned,
                measured / planned))
    }

    /// A rank's rates while all compute. Other work on a shared machine makes a measurement slower and never faster: the best of five.
    private func speed() throws -> DeviceSpeed {
        let tokens = 1024
        let problem = problem(tokens)
        let seconds = try InProcessRanks.run(ranks, threads: ranks) { communicator, device in
            func ones(_ heads: Int) -> Tensor { .ones([1, heads, tokens, headSize], on: device) }
            let (q, k, v) = (ones(heads), ones(keyHeads), ones(keyHeads))
            return try (0..<5).map { _ in
                try communicator.barrier()
                let start = MonotonicClock.seconds
                _ = try CPUAttention().forward(q: q, k: k, v: v, problem(communicator.rank))
                return MonotonicClock.seconds - start
            }.min()!
        }.max()!
        let ceilings = MachineCeilings(on: ThreadPool(workers: ranks))
        return DeviceSpeed(
            products: 1e9 * ceilings.gigaflops / Double(ranks),
            attention: 4 * Double(tokens * tokens * headSize * heads) / seconds,
            memory: 1e9 * ceilings.readGigabytes / Double(ranks), launch: 0)
    }

    private var queriesPerKey: Double { Double(heads) / Double(keyHeads) }

    /// Bytes of a block of keys and values.
    private func bytes(_ tokens: Int) -> Int { 2 * tokens * keyHeads * headSize * Self.elementBytes }

    /// The c at which 4 c^2 D H / F is latency + 2 c D Hkv e / B.
    private func balance(_ rate: Double) -> Double {
        let a = 4 * Double(headSize * heads) / rate
        let b = Double(bytes(1)) / link.bandwidth
        return (b + (b * b + 4 * a * link.latency).squareRoot()) / (2 * a)
    }

    /// Tokens at which a share reaches `hidden`, on the line between the first two sizes around it.
    static func crossover(_ rows: [Row], _ share: (Row) -> Double) -> Double? {
        guard let above = rows.firstIndex(where: { share($0) >= hidden }), above > 0 else { return nil }
        let (low, high) = (rows[above - 1], rows[above])
        let part = (hidden - share(low)) / (share(high) - share(low))
        return Double(low.tokens) + part * Double(high.tokens - low.tokens)
    }

    private func measure(_ tokens: Int, _ speed: DeviceSpeed) throws -> Row {
        let (link, bytes) = (link, bytes(tokens))
        var (fast, slow): ([Double], [Double]) = ([], [])
        for _ in 0..<runs {
            fast.append(try seconds(tokens) { $0 })
            slow.append(try seconds(tokens) { SlowLink($0, link) })
        }
        // Each hop but the last has a transfer behind it.
        let transfer = Double(ranks - 1) * link.seconds(bytes)
        return Row(
            tokens: tokens, fast: fast.min()!, slow: slow.min()!, transfer: transfer,
            planned: 1 - (try plannedWait(tokens, speed)) / transfer)
    }

    /// What the slowest rank takes for one forward pass.
    private func seconds(_ tokens: Int, over decorate: @escaping @Sendable (any Link) -> any Link) throws -> Double {
        let problem = problem(tokens)
        return try InProcessRanks.run(
            ranks, threads: ranks, .init(deadline: 60, checksums: false), over: decorate
        ) { communicator, device in
            func random(_ heads: Int, _ key: UInt64) -> Tensor {
                .random(.normal, [1, heads, tokens, headSize], key: key &+ UInt64(communicator.rank), on: device)
            }
            let (q, k, v) = (random(heads, 10), random(keyHeads, 20), random(keyHeads, 30))
            let own = problem(communicator.rank)
            let backend = RingAttention(CPUAttention(), over: communicator)
            _ = try CPUAttention().forward(q: q, k: k, v: v, own)
            try communicator.barrier()
            let start = MonotonicClock.seconds
            _ = try backend.forward(q: q, k: k, v: v, own)
            return MonotonicClock.seconds - start
        }.max()!
    }

    /// Each rank's problem over blocks of so many tokens.
    private func problem(_ tokens: Int) -> @Sendable (Int) -> AttentionProblem {
        { [heads, keyHeads, headSize] rank in
            let own = Positions.contiguous(from: rank * tokens, count: tokens)
            return AttentionProblem(
                heads: heads, keyHeads: keyHeads, headSize: headSize, dtype: .float32, queries: own, keys: own,
                mask: .full)
        }
    }

    /// Seconds that a rank waits for blocks in the planner's rehearsal.
    private func plannedWait(_ tokens: Int, _ speed: DeviceSpeed) throws -> Double {
        let device = RehearsalDevice(speed: speed, workers: 1)
        let communicator = RehearsalCommunicator(
            rank: 0, size: ranks, length: ranks * tokens, layout: .contiguous, link: RehearsalLink(link), on: device)
        func blank(_ heads: Int) -> Tensor {
            Tensor(uninitialised: [1, heads, tokens, headSize], .float32, on: device)
        }
        let (q, k, v) = (blank(heads), blank(keyHeads), blank(keyHeads))
        device.startClock()
        _ = try RingAttention(CPUAttention(), over: communicator).forward(q: q, k: k, v: v, problem(tokens)(0))
        return device.spending[.communication]?.seconds ?? 0
    }
}
