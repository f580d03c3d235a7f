import Foundation
import Testing

/// Between processes: no lost rank leaves the others hanging, and the launcher's exit code says what happened. What happens to blocks
/// in a run that trains is in `FaultTableTests`.
@Suite(.serialized, .enabled(if: MPIJob.Launcher.openMPI.path != nil, MPIJob.Launcher.obstacle))
struct MPIFaultTests {
    /// What `mpi-ranks` waits for a silent peer.
    static let deadline = 1.0
    static let repeats = MPIJob.isFullTest ? 10 : 1

    /// Nobody but the deadline notices a process that has stopped.
    @Test func aStoppedRankIsNamedByTheOthers() throws {
        for _ in 0..<Self.repeats {
            let job = try MPIJob.run(.openMPI, 3, "mpi-ranks", ["stop", "1", "\(SIGSTOP)"])
            #expect(job.code == 75, "\(job.output)")
            #expect(job.seconds < Self.deadline + 5)
            for rank in [0, 2] { #expect(job.output.contains("error: rank \(rank) lost rank 1"), "\(job.output)") }
        }
    }

    /// mpirun sees it at once.
    @Test func aKilledRankEndsTheJobSoon() throws {
        for _ in 0..<Self.repeats {
            let job = try MPIJob.run(.openMPI, 3, "mpi-ranks", ["stop", "1", "\(SIGKILL)"])
            #expect(job.code == 128 + SIGKILL, "\(job.output)")
            #expect(job.seconds < 5)
        }
    }

    @Test func aRankThatThrowsEndsAllAndSaysWhy() throws {
        let job = try MPIJob.run(.openMPI, 3, "mpi-ranks", ["throw", "1"])
        // Whichever rank ends first: all have the code of the one at fault.
        #expect(job.code == 1, "\(job.output)")
        #expect(job.output.contains("error: out of luck"))
        for rank in [0, 2] { #expect(job.output.contains("error: rank \(rank) lost rank"), "\(job.output)") }
        #expect(job.output.contains("rank 1 failed: out of luck"))
    }

    @Test(.enabled(if: MPIJob.Launcher.mpich.path != nil, "no MPICH (apt-get install mpich)"))
    func aStoppedRankIsNamedUnderMPICHToo() throws {
        let job = try MPIJob.run(.mpich, 3, "mpi-ranks", ["stop", "1", "\(SIGSTOP)"])
        #expect(job.code == 75, "\(job.output)")
        for rank in [0, 2] { #expect(job.output.contains("error: rank \(rank) lost rank 1"), "\(job.output)") }
    }

    /// A launcher with the other's library makes N worlds of one rank, each of which would do the whole work.
    @Test(.enabled(if: MPIJob.Launcher.mpich.path != nil, "no MPICH (apt-get install mpich)"))
    func aLauncherWithTheWrongLibraryIsRefused() throws {
        for (launcher, library) in [(MPIJob.Launcher.openMPI, "libmpich.so.12"), (.mpich, "libmpi.so.40")] {
            let job = try MPIJob.run(launcher, 2, "mpi-ranks", ["conform"], environment: ["RINGZOO_MPI": library])
            #expect(job.code == 78, "\(job.output)")
            #expect(job.output.contains("started 2 processes, but"), "\(job.output)")
            #expect(job.output.contains("sees a world of 1"), "\(job.output)")
        }
    }

    /// One rank starts a second after the other, or not at all.
    @Test(arguments: [1, 30])
    func ranksMayStartLateButNotTooLate(_ seconds: Int) throws {
        let program = MPIJob.program("mpi-ranks")
        let late = ["-n", "1", "sh", "-c", "sleep \(seconds); exec '\(program)' late"]
        let job = try MPIJob(.openMPI, ["--oversubscribe", "-n", "1", program, "late", ":"] + late).finish()
        #expect(job.code == (seconds == 1 ? 0 : 75), "\(job.output)")
        if seconds == 30 { #expect(job.output.contains("a rank is missing"), "\(job.output)") }
        #expect(job.seconds < 3 * Self.deadline + 5)
    }

    @Test func aMissingLibraryIsNamed() throws {
        let job = try MPIJob.run(
            .openMPI, 2, "mpi-ranks", ["conform"], environment: ["RINGZOO_MPI": "libnowhere.so"])
        #expect(job.code == 78, "\(job.output)")
        #expect(job.output.contains("libnowhere.so: cannot open"), "\(job.output)")
        #expect(job.output.contains("apt-get install"), "\(job.output)")
    }
}
