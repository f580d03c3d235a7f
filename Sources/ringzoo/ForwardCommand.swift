import ArgumentParser
import AttentionCore
import CheckpointCore
import DistributedCore
import NeuralCore
import TensorCore
import ZooCore
import ZooStandard

struct ForwardCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "forward", abstract: "Write a model's logits for a row of tokens to an HDF5 file.",
        discussion: """
            Example: ringzoo forward --checkpoint model.h5 --tokens 1,2,3 --output logits.h5

            Writes /tokens (int32 [1, T]) and /logits (float32 [1, T, V]), to compare with another program's numbers. With --ranks N, \
            or under mpirun, the tokens are cut over ranks, and rank 0 writes; --tensor and --shard-parameters spread the model.
            """)

    @Option(help: "A checkpoint written by 'ringzoo train' or 'ringzoo checkpoint import'.") var checkpoint: String
    @Option(help: "Token ids, separated by commas.") var tokens: String
    @Option(help: "HDF5 file to write.") var output: String
    @OptionGroup var sequence: SequenceRankOptions

    func run() throws {
        let zoo = try ZooStandard.zoo()
        let stored = try StoredModel(checkpoint, in: zoo)
        let ids = try tokenIds(vocabulary: stored.blueprint.vocabularySize)
        let group = try sequence.group(in: zoo)
        let mesh = sequence.mesh(of: group)
        try stored.blueprint.requireTensorRanks(mesh.tensor, askedBy: "--tensor")
        let choice = try AttentionChoice(
            backend: sequence.attention, local: sequence.attentionLocal, ranks: mesh.sequence, in: zoo)
        for note in group.notes + choice.notes { Terminal.note(note) }
        let (layout, shardParameters) = (sequence.layout, sequence.shardParameters)
        let task = "forward \(checkpoint)\ntokens \(tokens)\n\(sequence.lines)"
        let (row, logits) = try group.run(
            as: RankIdentity(task: task), threads: Terminal.threads(), deadline: sequence.deadline
        ) { communicator, device in
            let mesh = try ProcessMesh(mesh, shardParameters: shardParameters, over: communicator)
            let model = try stored.makeModel(mesh.sharding, on: device)
            let row = Tensor(ids, [1, ids.count], on: device)
            let shards = layout.shards(length: ids.count, size: mesh.sequence.size)
            let own = shards[mesh.sequence.rank]
            let context = SequenceContext(
                positions: own, attention: try choice.make(over: mesh.sequence), sharding: mesh.sharding, on: device)
            var none: KeyValueCache?
            let logits = try model.logits(row.shard(axis: 1, at: own), context, cache: &none).cast(to: .float32)
            try device.ledger.checkFailure()
            // All to rank 0, which writes.
            let outgoing = shards.indices.map { Message($0 == 0 ? [logits] : []) }
            let parts = try mesh.sequence.allToAll(outgoing)
            if communicator.rank != 0 { return (row, logits) }
            return (row, .unshard(zip(parts, shards).map { ($0.tensors[0], $1) }, axis: 1))
        }
        if !group.holdsFirstRank { return }
        try HDF5File.write(output, tensors: [source("tokens", row), source("logits", logits)])
        Terminal.note("wrote \(output): /tokens \(row.shape), /logits \(logits.shape)")
    }

    private func tokenIds(vocabulary: Int) throws -> [Int32] {
        try tokens.split(separator: ",", omittingEmptySubsequences: false).map { text in
            let number = text.filter { $0 != " " }
            guard let id = Int32(number), id >= 0, Int(id) < vocabulary else {
                throw RingZooError(
                    .usage, "--tokens has '\(text)' in it, which is no token of the model",
                    tried: ["numbers from 0 to \(vocabulary - 1), separated by commas, would work"])
            }
            return id
        }
    }

    private func source(_ name: String, _ tensor: Tensor) -> TensorSource {
        TensorSource(TensorInfo(name: name, shape: tensor.shape, dtype: tensor.dtype)) { sink in
            try tensor.withBytes { try sink($0) }
        }
    }
}
