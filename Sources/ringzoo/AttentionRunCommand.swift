import ArgumentParser
import AttentionCore
import CheckpointCore
import DistributedCore
import TensorCore
import ZooCore
import ZooStandard

struct AttentionRunCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "run", abstract: "Compute attention on tensors from an HDF5 file.",
        discussion: """
            Example: ringzoo attention run in.h5 out.h5 --backend ring --local cpu --ranks 4 --mask causal --grad

            Reads /q [B, H, T, D], /k and /v [B, Hkv, T, D] (float32, float64 or bf16) and, where they are there, /dout (like q), \
            /documents (int32 [T], one id a token), /bias ([1|B, 1|H, 1|T, 1|T]), /sinks ([H]) and /alibi (slopes, [H]). Writes /out and \
            /lse, with --grad also /dq, /dk, /dv (and /dbias, /dsinks), in float32 (float64 for float64 inputs).
            """)

    @Argument(help: "HDF5 file with the inputs.") var input: String
    @Argument(help: "HDF5 file to write.") var output: String
    @Option(help: "Attention backend; 'ringzoo backends' lists them.") var backend = "auto"
    @Option(help: "Backend of each rank under a ring or another strategy.") var local = "auto"
    @Option(help: "Ranks that share the sequence; 1, or as many as mpirun started, where left out.") var ranks: Int?
    @Option(help: "What carries messages between ranks: auto, threads or mpi.") var link = ParallelSection.Link.auto
    @Option(help: "contiguous, zigzag or striped.") var layout = SequenceLayout.zigzag
    @OptionGroup var cut: CutOptions
    @OptionGroup var mask: MaskOptions
    @Option(help: "Scale of the logits; 1/sqrt(D) where left out.") var scale: Double?
    @Option(help: "Soft cap of the logits.") var softCap: Double?
    @Flag(help: "Gradients too; /dout is needed.") var grad = false

    func run() throws {
        if let ranks, ranks < 1 { throw RingZooError(.usage, "--ranks is \(ranks)", tried: ["at least 1 would work"]) }
        let zoo = try ZooStandard.zoo()
        let group = try RankChoice(link: link, ranks: ranks, in: zoo, words: .options())
        let inputs = try AttentionInputs(HDF5File.readForeign(input), path: input, needsGradient: grad)
        var attentionMask = try mask.attentionMask()
        attentionMask.softCap = softCap
        let choice = try AttentionChoice(
            backend: backend, local: local, headRanks: cut.headRanks, ranks: group.ranks, in: zoo)
        for note in choice.notes { Terminal.note(note) }
        let (grad, scale) = (grad, scale)
        let shards = layout.shards(
            length: inputs.length, size: group.ranks, shares: try cut.sharesOfRanks(group.ranks))
        let base = attentionMask
        let task = "\(backend) \(local) \(cut.headRanks ?? 0) \(shards) \(base) scale \(scale ?? 0) grad \(grad)"
        let parts = try group.run(as: RankIdentity(task: task), threads: Terminal.threads(), deadline: 60) {
            communicator, device -> [AttentionPart] in
            let part = try inputs.compute(
                shards[communicator.rank], of: shards, base, scale: scale, grad: grad, on: device,
                try choice.make(over: communicator))
            return try part.gathered(over: communicator, shards)
        }
        if !group.holdsFirstRank { return }
        try HDF5File.write(output, tensors: AttentionPart.join(parts))
        Terminal.note("\(choice.description), \(group.ranks) rank\(group.ranks == 1 ? "" : "s"): wrote \(output)")
    }
}

extension SequenceLayout: ExpressibleByArgument {}
extension ParallelSection.Link: ExpressibleByArgument {}

/// The tensors of an input file, checked against each other.
struct AttentionInputs: Sendable {
    let file: ForeignHDF5File
    let path: String
    let batch, heads, keyHeads, length, headSize: Int
    let dtype: DType

    init(_ file: ForeignHDF5File, path: String, needsGradient: Bool) throws {
        self.file = file
        self.path = path
        func info(_ name: String) throws -> TensorInfo {
            if let info = file.tensors.first(where: { $0.name == name }) { return info }
            let refusal = file.refused[name].map { "/\(name) cannot be read: \($0)" }
            throw RingZooError(
                .corruptInput, "\(path) has no data set /\(name)",
                tried: [refusal ?? "it has \(file.tensors.map { "/" + $0.name }.joined(separator: ", "))"])
        }
        func fault(_ message: String) -> RingZooError { RingZooError(.corruptInput, "\(path): \(message)") }
        let (q, k, v) = (try info("q"), try info("k"), try info("v"))
        for tensor in [q, k, v] where tensor.shape.count != 4 || !tensor.dtype.isFloat || tensor.dtype != q.dtype {
            throw fault(
                "/\(tensor.name) is \(tensor.dtype)\(tensor.shape); four axes [B, heads, T, D] of the type of /q (float32, float64 or bf16) are wanted"
            )
        }
        if k.shape != v.shape { throw fault("/k \(k.shape) and /v \(v.shape) differ") }
        if q.shape[0] != k.shape[0] || q.shape[2] != k.shape[2] || q.shape[3] != k.shape[3] || k.shape[1] == 0
            || q.shape[1] % k.shape[1] != 0
        {
            throw fault(
                "/q \(q.shape) and /k \(k.shape) do not fit: equal B, T and D, and heads that are a multiple of the key heads are wanted"
            )
        }
        (batch, heads, length, headSize) = (q.shape[0], q.shape[1], q.shape[2], q.shape[3])
        keyHeads = k.shape[1]
        dtype = q.dtype
        if needsGradient, try info("dout").shape != q.shape {
            throw fault("/dout \(try info("dout").shape) does not have the shape of /q, \(q.shape)")
        }
        if let documents = file.tensors.first(where: { $0.name == "documents" }),
            documents.dtype != .int32 || documents.shape != [length]
        {
            throw fault("/documents is \(documents.dtype)\(documents.shape); int32[\(length)] is wanted")
        }
        for name in ["sinks", "alibi"] {
            if let found = file.tensors.first(where: { $0.name == name }),
                found.shape != [heads] || !found.dtype.isFloat
            {
                throw fault("/\(name) is \(found.dtype)\(found.shape); float [\(heads)], one per query head, is wanted")
            }
        }
        if let bias = file.tensors.first(where: { $0.name == "bias" }) {
            let full = [batch, heads, length, length]
            if bias.shape.count != 4 || !bias.dtype.isFloat
                || !zip(bias.shape, full).allSatisfy({ $0 == 1 || $0 == $1 })
            {
                throw fault("/bias is \(bias.dtype)\(bias.shape); a shape that broadcasts to \(full) is wanted")
            }
        }
    }

    /// A whole tensor, or nil where the file has none of this name.
    private func tensor(_ name: String, on device: any Device) throws -> Tensor? {
        guard let info = file.tensors.first(where: { $0.name == name }) else { return nil }
        return try file.bytes(of: name).withUnsafeBytes { Tensor(bytes: $0, info.shape, info.dtype, on: device) }
    }

    func compute(
        _ positions: Positions, of shards: [Positions], _ base: AttentionMask, scale: Double?, grad: Bool,
        on device: any Device,
        _ backend: any AttentionBackend
    ) throws -> AttentionPart {
        func rows(_ name: String) throws -> Tensor { try tensor(name, on: device)!.shard(axis: 2, at: positions) }
        let (q, k, v) = (try rows("q"), try rows("k"), try rows("v"))
        var mask = base
        let wide = dtype.accumulator
        var ids: [Int32]?
        if let documents = try tensor("documents", on: device) {
            let own = documents.reshaped([1, length]).shard(axis: 1, at: positions)
            mask.documents = .init(queries: own, keys: own)
            ids = documents.values(Int32.self)
        }
        // A question to the whole bias: a rank that has one token has one row of it, too.
        var sharesBias = false
        if let bias = try tensor("bias", on: device)?.cast(to: wide) {
            sharesBias = bias.shape[2] == 1
            mask.bias = sharesBias ? bias : bias.shard(axis: 2, at: positions)
        }
        mask.sinks = try tensor("sinks", on: device)?.cast(to: wide)
        mask.alibiSlopes = try tensor("alibi", on: device)?.doubles
        var problem = AttentionProblem(
            heads: heads, keyHeads: keyHeads, headSize: headSize, scale: scale, dtype: dtype, queries: positions,
            keys: positions, mask: mask)
        problem.shards = SequenceShard.all(shards, documents: ids, length: length)
        let result = try backend.forward(q: q, k: k, v: v, problem)
        var part = AttentionPart(
            positions: positions, bySequence: ["out": result.out, "lse": result.lse.cast(to: wide)])
        if grad {
            let gradients = try backend.backward(dOut: try rows("dout"), q: q, k: k, v: v, result, problem)
            part.bySequence["dq"] = gradients.q
            part.bySequence["dk"] = gradients.k
            part.bySequence["dv"] = gradients.v
            if let dBias = gradients.bias {
                if sharesBias { part.shared["dbias"] = dBias } else { part.bySequence["dbias"] = dBias }
            }
            part.shared["dsinks"] = gradients.sinks
        }
        return part
    }
}

/// What one rank computed.
struct AttentionPart: Sendable {
    let positions: Positions
    /// Tensors whose axis 2 is the rank's part of the sequence.
    var bySequence: [String: Tensor]
    /// Tensors that all ranks have a share of.
    var shared: [String: Tensor] = [:]

    init(positions: Positions, bySequence: [String: Tensor]) {
        self.positions = positions
        self.bySequence = bySequence
    }

    /// All ranks' parts, on rank 0; none on the others.
    func gathered(
        over communicator: any Communicator, _ shards: [Positions]
    ) throws -> [AttentionPart] {
        let names = (bySequence.keys.sorted(), shared.keys.sorted())
        let own = Message(names.0.map { bySequence[$0]! } + names.1.map { shared[$0]! })
        let messages = (0..<communicator.size).map { $0 == 0 ? own : Message([]) }
        let received = try communicator.allToAll(messages)
        if communicator.rank != 0 { return [] }
        return received.enumerated().map { rank, message in
            var part = AttentionPart(positions: shards[rank], bySequence: [:])
            for (name, tensor) in zip(names.0, message.tensors) { part.bySequence[name] = tensor }
            for (name, tensor) in zip(names.1, message.tensors.dropFirst(names.0.count)) { part.shared[name] = tensor }
            return part
        }
    }

    static func join(_ parts: [AttentionPart]) -> [TensorSource] {
        var results: [(String, Tensor)] = []
        for name in parts[0].bySequence.keys.sorted() {
            results.append((name, .unshard(parts.map { ($0.bySequence[name]!, $0.positions) }, axis: 2)))
        }
        for name in parts[0].shared.keys.sorted() {
            let shares = parts.map { $0.shared[name]! }
            results.append((name, shares.dropFirst().reduce(shares[0], +)))
        }
        return results.map { name, tensor in
            TensorSource(TensorInfo(name: name, shape: tensor.shape, dtype: tensor.dtype)) { sink in
                try tensor.withBytes { try sink($0) }
            }
        }
    }
}
