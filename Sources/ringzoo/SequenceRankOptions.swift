import ArgumentParser
import DistributedCore
import TensorCore
import ZooCore

/// On which ranks, and with which attention, a command runs a model over one sequence.
struct SequenceRankOptions: ParsableArguments {
    @Option(help: "Attention backend; 'ringzoo backends' lists them.") var attention = "auto"
    @Option(help: "Backend of each rank under a ring.") var attentionLocal = "auto"
    @Option(help: "Ranks that share the sequence; 1, or as many as mpirun started, where left out.") var ranks: Int?
    @Option(help: "What carries messages between ranks: auto, threads or mpi.") var link = ParallelSection.Link.auto
    @Option(help: "contiguous, zigzag or striped.") var layout = SequenceLayout.zigzag
    @Option(help: "Seconds a rank waits for a silent peer.") var deadline = 60.0

    func group(in zoo: Zoo) throws -> RankChoice {
        if let ranks, ranks < 1 { throw RingZooError(.usage, "--ranks is \(ranks)", tried: ["at least 1 would work"]) }
        if !(deadline > 0 && deadline.isFinite) {
            throw RingZooError(.usage, "--deadline is \(deadline)", tried: ["a number of seconds above 0 would work"])
        }
        return try RankChoice(link: link, ranks: ranks, in: zoo)
    }

    /// For what ranks have to agree on.
    var lines: String { "attention \(attention) \(attentionLocal)\nlayout \(layout)\ndeadline \(deadline)" }
}
