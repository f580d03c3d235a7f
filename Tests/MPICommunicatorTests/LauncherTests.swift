import Testing

@testable import MPICommunicator

/// What started a process is read from its environment alone.
@Suite struct LauncherTests {
    @Test func launchersAreToldApart() throws {
        let open = try #require(
            Launcher([
                "OMPI_COMM_WORLD_RANK": "2", "OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
                "PMIX_RANK": "2",
            ]))
        #expect(open.family == .openMPI && open.rank == 2 && open.size == 4 && open.ranksHere == 2)
        let mpich = try #require(Launcher(["PMI_RANK": "0", "PMI_SIZE": "3", "MPI_LOCALNRANKS": "1"]))
        #expect(mpich.family == .mpich && mpich.rank == 0 && mpich.size == 3 && mpich.ranksHere == 1)
        let pmi2 = try #require(Launcher(["PMI_RANK": "5", "PMI_SIZE": "8", "SLURM_PROCID": "5"]))
        #expect(pmi2.family == nil && pmi2.name == "srun" && pmi2.size == 8 && pmi2.ranksHere == nil)
        let pmix = try #require(Launcher(["PMIX_RANK": "1", "SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "2"]))
        #expect(pmix.family == nil && pmix.rank == 1 && pmix.size == 2)
    }

    /// mpirun inside a Slurm job is mpirun.
    @Test func theInnermostLauncherCounts() throws {
        let inside = ["SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1", "OMPI_COMM_WORLD_RANK": "3"]
        #expect(Launcher(inside.merging(["OMPI_COMM_WORLD_SIZE": "6"]) { $1 })?.size == 6)
    }

    @Test func aloneIsAlone() {
        #expect(Launcher([:]) == nil)
        #expect(Launcher(["SLURM_PROCID": "0", "SLURM_NTASKS": "8"]) == nil)
        #expect(Launcher(["OMPI_COMM_WORLD_RANK": "x", "OMPI_COMM_WORLD_SIZE": "4"]) == nil)
    }
}
