import CheckpointCore
import Foundation
import TensorCore
import Testing

/// The program as its users start it on several processes.
@Suite(.serialized, .enabled(if: MPIJob.Launcher.openMPI.path != nil, MPIJob.Launcher.obstacle))
struct MPIProgramTests {
    static let corpus = URL(fileURLWithPath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
        .appendingPathComponent("Corpus/harbour.txt").path

    let folder: TemporaryFolder

    init() throws { folder = try TemporaryFolder() }

    /// A config of a two-layer model of width 32 on a ring of so many ranks.
    func config(_ directory: String, ranks: Int, keyHeads: Int = 1) throws -> String {
        let text = """
            model: { name: llama, preset: debug, width: 32, feedForward: 64, heads: 2, keyHeads: \(keyHeads) }
            attention: { backend: ring, local: cpu }
            parallel: { sequence: \(ranks), deadline: 3 }
            data: { path: \(Self.corpus), context: 64, batch: 2 }
            optimizer: { rate: 1e-3 }
            run: { directory: \(folder / directory), steps: 12, evaluateEvery: 6, checkpointEvery: 4 }
            """
        let path = folder / "\(directory)-\(ranks).yaml"
        try text.write(toFile: path, atomically: true, encoding: .utf8)
        return path
    }

    /// The program without a launcher: in-process ranks.
    func alone(_ arguments: String...) throws -> MPIJob.Result {
        try MPIJob(program: MPIJob.program("ringzoo"), arguments).finish()
    }

    /// What training measured, by step.
    func losses(_ directory: String) throws -> [String] {
        try String(contentsOfFile: folder / "\(directory)/metrics.jsonl", encoding: .utf8).split(separator: "\n").map {
            let line = try JSONSerialization.jsonObject(with: Data($0.utf8)) as? [String: Any] ?? [:]
            return "\(line["step"] ?? "") \(line["loss"] ?? "") \(line["validationLoss"] ?? "")"
        }
    }

    func weights(_ directory: String, step: Int) throws -> [String: [UInt8]] {
        let reader = try CheckpointReader(folder / "\(directory)/checkpoints/step-000000\(step).h5")
        return try Dictionary(
            uniqueKeysWithValues: reader.tensors.map { info in
                (info.name, try reader.bytes(of: info.name).withUnsafeBytes { Array($0) })
            })
    }

    @Test(arguments: MPIJob.Launcher.found)
    func processesTrainLikeThreads(_ launcher: MPIJob.Launcher) throws {
        let ranks = launcher == .openMPI ? 4 : 2
        let job = try MPIJob.run(launcher, ranks, "ringzoo", ["train", config("mpi", ranks: ranks)])
        #expect(job.code == 0, "\(job.output)")
        #expect(job.output.contains("auto chose 'mpi'"))
        // Rank 0 alone speaks.
        #expect(job.output.components(separatedBy: "done at step 12").count == 2, "\(job.output)")
        let threads = try alone("train", config("threads", ranks: ranks))
        #expect(threads.code == 0, "\(threads.output)")
        #expect(try losses("mpi") == losses("threads"))
        #expect(try losses("mpi").count == 14)
        #expect(try weights("mpi", step: 12) == weights("threads", step: 12))
        let checkpoint = folder / "mpi/checkpoints/step-00000012.h5"
        let evaluate = ["evaluate", try config("mpi", ranks: ranks), "--checkpoint", checkpoint, "--json"]
        let evaluation = try MPIJob.run(launcher, ranks, "ringzoo", evaluate)
        #expect(evaluation.code == 0 && evaluation.output.contains("\"ranks\":\(ranks)"), "\(evaluation.output)")
    }

    /// Sharded parameters, tensor and data parallelism over groups of processes, and the checkpoint that rank 0 puts together.
    @Test func aMeshTrainsLikeThreads() throws {
        func arguments(_ directory: String) throws -> [String] {
            let mesh = ["data=2", "sequence=1", "tensor=2", "shardParameters=true"].flatMap {
                ["--set", "parallel.\($0)"]
            }
            return [
                "train", try config(directory, ranks: 4), "--set", "model.keyHeads=2", "--set", "attention.backend=cpu",
            ]
                + mesh
        }
        let job = try MPIJob.run(.openMPI, 4, "ringzoo", arguments("mpi"))
        #expect(job.code == 0, "\(job.output)")
        let threads = try MPIJob(program: MPIJob.program("ringzoo"), arguments("threads")).finish()
        #expect(threads.code == 0, "\(threads.output)")
        #expect(try losses("mpi") == losses("threads"))
        #expect(try losses("mpi").count == 14)
        #expect(try weights("mpi", step: 12) == weights("threads", step: 12))
    }

    /// How a sequence is shared, and whether its ranks have unequal parts.
    static let sharings: [(backend: String, layout: String, unequal: Bool, ranks: Int)] =
        (MPIJob.isFullTest ? [2, 3, 4, 5, 7, 8, 16] : [3]).flatMap { ranks in
            ["contiguous", "zigzag", "striped"].map { ("ring", $0, false, ranks) }
                + ["gather", "ulysses", "mesh"].map { ($0, "zigzag", false, ranks) } + [("ring", "zigzag", true, ranks)]
        } + [("mesh", "contiguous", false, 4)]

    /// Attention between processes equals the one between threads to the bit, gradients and every option included.
    @Test(arguments: sharings)
    func attentionEqualsThreadsBitForBit(
        _ sharing: (backend: String, layout: String, unequal: Bool, ranks: Int)
    ) throws {
        let (backend, layout, ranks) = (sharing.backend, sharing.layout, sharing.ranks)
        let (batch, heads, keyHeads, length, size) = (1, 4, 2, 131, 16)
        let device = CPUDevice(threads: 1)
        func draw(_ key: UInt64, _ shape: [Int]) -> Tensor { Tensor.random(.normal, shape, key: key, on: device) }
        let documents = Tensor((0..<length).map { Int32($0 / 50) }, on: device)
        let inputs: [(String, Tensor)] = [
            ("q", draw(1, [batch, heads, length, size])), ("k", draw(2, [batch, keyHeads, length, size])),
            ("v", draw(3, [batch, keyHeads, length, size])), ("dout", draw(4, [batch, heads, length, size])),
            ("bias", draw(5, [1, heads, length, length])), ("sinks", draw(6, [heads])), ("documents", documents),
        ]
        let sources = inputs.map { name, tensor in
            TensorSource(TensorInfo(name: name, shape: tensor.shape, dtype: tensor.dtype)) { sink in
                try tensor.withBytes { try sink($0) }
            }
        }
        try HDF5File.write(folder / "in.h5", tensors: sources)
        let shares = sharing.unequal ? ["--shares", (1...ranks).map(String.init).joined(separator: ",")] : []
        func arguments(_ output: String, _ link: String) -> [String] {
            [
                "attention", "run", folder / "in.h5", folder / output, "--backend", backend, "--local", "cpu",
                "--ranks", "\(ranks)", "--link", link, "--layout", layout, "--mask", "causal", "--window", "70",
                "--soft-cap", "5", "--grad",
            ] + shares
        }
        let job = try MPIJob.run(.openMPI, ranks, "ringzoo", arguments("mpi.h5", "mpi"))
        #expect(job.code == 0, "\(job.output)")
        let threads = try MPIJob(program: MPIJob.program("ringzoo"), arguments("threads.h5", "threads")).finish()
        #expect(threads.code == 0, "\(threads.output)")
        let (a, b) = (
            try HDF5File.readForeign(folder / "mpi.h5"), try HDF5File.readForeign(folder / "threads.h5")
        )
        #expect(a.tensors.map(\.name).sorted() == ["dbias", "dk", "dq", "dsinks", "dv", "lse", "out"])
        for info in a.tensors {
            let same =
                try a.bytes(of: info.name).withUnsafeBytes { Array($0) }
                == b.bytes(of: info.name).withUnsafeBytes { Array($0) }
            #expect(same, "\(info.name), \(sharing)")
        }
    }

    /// A checkpoint of a short run.
    func checkpoint(keyHeads: Int = 1) throws -> String {
        let run = try alone("train", config("run", ranks: 1, keyHeads: keyHeads), "--set", "run.stopAfter=4")
        #expect(run.code == 0, "\(run.output)")
        return folder / "run/checkpoints/step-00000004.h5"
    }

    /// The one line of JSON among what a job said.
    func json(_ job: MPIJob.Result) throws -> [String: Any] {
        #expect(job.code == 0, "\(job.output)")
        let lines = job.output.split(separator: "\n").filter { $0.hasPrefix("{") }
        #expect(lines.count == 1, "\(job.output)")
        let object = try JSONSerialization.jsonObject(with: Data((lines.first ?? "{}").utf8))
        return object as? [String: Any] ?? [:]
    }

    @Test(arguments: MPIJob.Launcher.found)
    func processesGenerateLikeOne(_ launcher: MPIJob.Launcher) throws {
        let prompt = ["--prompt", "The harbour lies still", "--max-tokens", "40", "--seed", "7"]
        let generate = ["generate", "--checkpoint", try checkpoint()] + prompt
        let one = try json(MPIJob(program: MPIJob.program("ringzoo"), generate + ["--json"]).finish())
        let two = try json(MPIJob.run(launcher, 2, "ringzoo", generate + ["--json"]))
        #expect(two["ranks"] as? Int == 2)
        #expect((two["tokens"] as? [Int])?.count == 40 && two["tokens"] as? [Int] == one["tokens"] as? [Int])
        // Rank 0 alone speaks. (What it says goes through two pipes, whose bytes the launcher mixes.)
        let plain = try MPIJob.run(launcher, 2, "ringzoo", generate)
        let closings = plain.output.components(separatedBy: "tokens of prompt").count - 1
        #expect(plain.code == 0 && closings == 1, "\(plain.output)")
    }

    /// Two ranks of each layer's heads and two of the text, with the weights spread over all four.
    @Test func processesThatShareAModelGenerateLikeOne() throws {
        let prompt = ["--prompt", "The harbour lies still", "--max-tokens", "20", "--seed", "7", "--json"]
        let generate = ["generate", "--checkpoint", try checkpoint(keyHeads: 2)] + prompt
        let one = try json(MPIJob(program: MPIJob.program("ringzoo"), generate).finish())
        let four = try json(
            MPIJob.run(.openMPI, 4, "ringzoo", generate + ["--tensor", "2", "--shard-parameters"]))
        #expect(four["ranks"] as? Int == 4)
        #expect((four["tokens"] as? [Int])?.count == 20 && four["tokens"] as? [Int] == one["tokens"] as? [Int])
        let (part, whole) = (four["weightBytes"] as? Int ?? 0, one["weightBytes"] as? Int ?? 0)
        #expect(part > 0 && part < whole / 3)
    }

    @Test func processesMeasureAttention() throws {
        let bench = ["attention", "bench", "--backends", "ring", "--shapes", "1,2,1,64,16", "--mask", "causal"]
        let fast = ["--seconds", "0", "--runs", "1", "--json"]
        let measure = try json(MPIJob.run(.openMPI, 2, "ringzoo", bench + fast))
        #expect(measure["ranks"] as? Int == 2 && measure["threads"] as? Int == 2)
        #expect(measure["forwardBackwardSeconds"] as? Double ?? 0 > 0)
        // A backend of one rank has no use for the other process.
        let one = try MPIJob.run(.openMPI, 2, "ringzoo", ["attention", "bench", "--backends", "cpu"] + fast)
        #expect(one.code == 78 && one.output.contains("has 1 rank, but mpirun of Open MPI started 2"), "\(one.output)")
    }

    @Test func processesComputeLogitsLikeThreads() throws {
        let checkpoint = try checkpoint()
        func logits(_ job: MPIJob.Result, _ file: String) throws -> [UInt8] {
            #expect(job.code == 0, "\(job.output)")
            return try HDF5File.readForeign(folder / file).bytes(of: "logits").withUnsafeBytes { Array($0) }
        }
        func arguments(_ file: String) -> [String] {
            ["forward", "--checkpoint", checkpoint, "--tokens", "1,2,3,4,5,6,7", "--output", folder / file]
        }
        let processes = try logits(MPIJob.run(.openMPI, 3, "ringzoo", arguments("mpi.h5")), "mpi.h5")
        let alone = try MPIJob(program: MPIJob.program("ringzoo"), arguments("threads.h5") + ["--ranks", "3"]).finish()
        #expect(try processes == logits(alone, "threads.h5"))
    }

    /// A rank that is stopped or killed in the middle of a text.
    @Test(arguments: [SIGSTOP, SIGKILL])
    func aLostRankEndsTheText(_ signal: Int32) throws {
        let endless = [
            "generate", "--checkpoint", try checkpoint(), "--prompt", "a", "--max-tokens", "10000000",
            "--deadline", "2",
        ]
        let job = try MPIJob(
            .openMPI, MPIJob.Launcher.openMPI.arguments(3) + [MPIJob.program("ringzoo")] + endless)
        while job.isRunning && job.output.utf8.count < 1_000 { sched_yield() }
        kill(try #require(job.processIdentifier(ofRank: 1)), signal)
        let end = job.finish(limit: 30)
        #expect(end.code == (signal == SIGSTOP ? 75 : 128 + SIGKILL), "\(end.output)")
        let words = signal == SIGSTOP ? "lost rank 1" : "process rank 1"
        #expect(end.output.contains(words), "\(end.output)")
    }

    @Test func theMeshMustHaveAsManyRanksAsWereStarted() throws {
        let job = try MPIJob.run(.openMPI, 3, "ringzoo", ["train", config("run", ranks: 2)])
        #expect(job.code == 78, "\(job.output)")
        #expect(job.output.contains("has 2 ranks, but mpirun of Open MPI started 3"), "\(job.output)")
        let threads = ["train", try config("run", ranks: 2), "--set", "parallel.link=threads"]
        let refused = try MPIJob.run(.openMPI, 2, "ringzoo", threads)
        #expect(refused.code == 78 && refused.output.contains("each would do the whole work"), "\(refused.output)")
        let mpi = try alone("train", config("run", ranks: 2), "--set", "parallel.link=mpi")
        #expect(mpi.code == 78 && mpi.output.contains("mpirun -n 2 would work"), "\(mpi.output)")
    }
}
