import Foundation
import Testing

/// The communicator's laws, with ranks that are processes.
@Suite(.serialized, .enabled(if: !MPIJob.Launcher.found.isEmpty, MPIJob.Launcher.obstacle))
struct MPICommunicatorTests {
    /// All sizes with one family, some with the other.
    static let jobs: [(MPIJob.Launcher, Int)] = MPIJob.Launcher.found.enumerated().flatMap { index, launcher in
        let sizes = index == 0 || MPIJob.isFullTest ? [1, 2, 3, 4, 5, 7, 8] : [3]
        return (sizes + (MPIJob.isFullTest ? [16] : [])).map { (launcher, $0) }
    }

    @Test(arguments: jobs)
    func conforms(_ launcher: MPIJob.Launcher, _ ranks: Int) throws {
        let job = try MPIJob.run(launcher, ranks, "mpi-ranks", ["conform"])
        #expect(job.code == 0, "\(job.output)")
        for rank in 0..<ranks { #expect(job.output.contains("rank \(rank) of \(ranks) found 0"), "\(job.output)") }
    }

    /// Messages of 2 GiB and more are cut, which only a smaller limit lets anyone try: most packets of this run are in pieces of 40
    /// bytes, which are no whole tensors. Several at a time, since of packets on their way together any may be looked at first.
    @Test(arguments: MPIJob.Launcher.found, 0..<3)
    func largeMessagesAreCut(_ launcher: MPIJob.Launcher, _ run: Int) throws {
        let job = try MPIJob.run(launcher, 3, "mpi-ranks", ["conform", "40"])
        #expect(job.code == 0, "\(job.output)")
        #expect(job.output.contains("rank 2 of 3 found 0"), "\(job.output)")
    }
}
