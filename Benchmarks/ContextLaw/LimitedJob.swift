import Foundation
import TensorCore

/// A hard limit on what one process may write to, held by the kernel: an allocation beyond it fails.
///
/// RLIMIT_DATA counts private memory (the heap, anonymous mappings, stacks of threads). RLIMIT_AS would also count what processes share:
/// libraries, and the segments through which Open MPI's ranks talk, which grow with the number of ranks and belong to none.
struct DataLimit {
    let mebibytes: Double

    func apply() throws {
        let bytes = rlim_t(mebibytes * 1_048_576)
        var limit = rlimit(rlim_cur: bytes, rlim_max: bytes)
        if setrlimit(__rlimit_resource_t(RLIMIT_DATA.rawValue), &limit) != 0 {
            throw RingZooError(.failed, "no limit of \(mebibytes) MiB: \(String(cString: strerror(errno)))")
        }
    }
}

/// This program again, as processes that mpirun starts.
struct LimitedJob {
    let ranks: Int
    let arguments: [String]

    init(ranks: Int, _ arguments: [String]) { (self.ranks, self.arguments) = (ranks, arguments) }

    /// What our allocator, Swift's runtime and the system say when there is no memory.
    private static let refusals = ["out of memory", "failed to allocate", "Cannot allocate memory"]

    /// - Returns: nil when a process had no memory left.
    /// - Throws: whatever else ended the job, with what it said.
    func run() throws -> OneStep.Reading? {
        let job = Process()
        job.executableURL = URL(fileURLWithPath: "/usr/bin/env")
        let program = URL(fileURLWithPath: CommandLine.arguments[0]).path
        job.arguments = ["mpirun", "--oversubscribe", "-n", "\(ranks)", program] + arguments
        // OpenBLAS takes tens of MiB for each core that a process may use, which is one where mpirun binds it and all where it does not.
        // A process that finds no memory says so and ends; it need not say where it was.
        let settings = ["OPENBLAS_NUM_THREADS": "1", "SWIFT_BACKTRACE": "enable=no"]
        job.environment = ProcessInfo.processInfo.environment.merging(settings) { $1 }
        let output = Pipe()
        job.standardOutput = output
        job.standardError = output
        try job.run()
        let said = String(decoding: output.fileHandleForReading.readDataToEndOfFile(), as: UTF8.self)
        job.waitUntilExit()
        if job.terminationStatus == 0, let reading = OneStep.Reading(in: said) { return reading }
        if Self.refusals.contains(where: said.contains) { return nil }
        throw RingZooError(.failed, "mpirun ended with \(job.terminationStatus): \(said)")
    }
}
