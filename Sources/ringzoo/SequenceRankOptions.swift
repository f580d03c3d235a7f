import ArgumentParser
import DistributedCore
import TensorCore
import ZooCore

/// On which ranks, how they share the model, and with which attention, a command runs it over one sequence.
struct SequenceRankOptions: ParsableArguments {
    @Option(help: "Attention backend; 'ringzoo backends' lists them.") var attention = "auto"
    @Option(help: "Backend of each rank under a ring.") var attentionLocal = "auto"
    @Option(help: "Ranks that share the sequence; 1, or what mpirun started, where left out.") var ranks: Int?
    @Option(
        help:
            "Ranks that share each layer: heads, feed-forward layer and vocabulary. There are --ranks times as many in all."
    )
    var tensor = 1
    @Flag(
        help: "Spread the weights over the ranks that share the sequence, too; a layer is whole only while it is used.")
    var shardParameters = false
    @Option(help: "What carries messages between ranks: auto, threads or mpi.") var link = ParallelSection.Link.auto
    @Option(help: "contiguous, zigzag or striped.") var layout = SequenceLayout.zigzag
    @Option(help: "Seconds a rank waits for a silent peer.") var deadline = 60.0

    func group(in zoo: Zoo) throws -> RankChoice {
        for (name, value) in [("ranks", ranks ?? 1), ("tensor", tensor)] where value < 1 {
            throw RingZooError(.usage, "--\(name) is \(value)", tried: ["at least 1 would work"])
        }
        if !(deadline > 0 && deadline.isFinite) {
            throw RingZooError(.usage, "--deadline is \(deadline)", tried: ["a number of seconds above 0 would work"])
        }
        let words = RankWords.options(tensor: tensor)
        let sequence = try ranks ?? max(1, RankChoice(link: link, ranks: nil, in: zoo, words: words).ranks / tensor)
        return try RankChoice(link: link, ranks: sequence * tensor, in: zoo, words: words)
    }

    /// How the ranks of a group share the work.
    func mesh(of group: RankChoice) -> ProcessMesh.Shape {
        ProcessMesh.Shape(sequence: group.ranks / tensor, tensor: tensor)
    }

    /// For what ranks have to agree on.
    var lines: String {
        """
        attention \(attention) \(attentionLocal)
        layout \(layout)
        tensor \(tensor), shard parameters \(shardParameters)
        deadline \(deadline)
        """
    }
}
