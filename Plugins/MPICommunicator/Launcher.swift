import Foundation

/// What started this process as one of several, as its environment tells before MPI is asked.
struct Launcher: Sendable, Hashable {
    /// For people: "mpirun of Open MPI".
    var name: String
    var rank: Int
    var size: Int
    /// Ranks on this machine; nil where it does not tell.
    var ranksHere: Int?
    /// The family of MPI libraries that understands it; nil where several do.
    var family: Family?

    enum Family: String, Sendable {
        case openMPI = "Open MPI"
        case mpich = "MPICH"
    }

    /// Nil where no launcher is known to have started this process.
    init?(_ environment: [String: String] = ProcessInfo.processInfo.environment) {
        func number(_ name: String) -> Int? { environment[name].flatMap { Int($0) } }
        if let rank = number("OMPI_COMM_WORLD_RANK"), let size = number("OMPI_COMM_WORLD_SIZE") {
            self.init(
                name: "mpirun of Open MPI", rank: rank, size: size, ranksHere: number("OMPI_COMM_WORLD_LOCAL_SIZE"),
                family: .openMPI)
        } else if let rank = number("PMI_RANK"), let size = number("PMI_SIZE") {
            // Slurm's own PMI-2 looks the same; Open MPI 4 built for Slurm speaks it too.
            let isSlurm = environment["SLURM_PROCID"] != nil
            self.init(
                name: isSlurm ? "srun" : "mpirun of MPICH", rank: rank, size: size,
                ranksHere: number("MPI_LOCALNRANKS"),
                family: isSlurm ? nil : .mpich)
        } else if let rank = number("SLURM_PROCID"), let size = number("SLURM_STEP_NUM_TASKS"), size > 1 {
            // With --mpi=pmix; without it MPI will find itself alone, which `MPIProcess` refuses.
            self.init(name: "srun", rank: rank, size: size, ranksHere: nil, family: nil)
        } else {
            return nil
        }
    }

    private init(name: String, rank: Int, size: Int, ranksHere: Int?, family: Family?) {
        (self.name, self.rank, self.size, self.ranksHere, self.family) = (name, rank, size, ranksHere, family)
    }
}
