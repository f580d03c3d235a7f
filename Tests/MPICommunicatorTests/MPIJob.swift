import Foundation
import Testing

/// Processes started by an mpirun, with a limit on how long they take.
final class MPIJob {
    private let job = Process()
    private let folder = try! TemporaryFolder()
    private let ended = DispatchSemaphore(value: 0)
    private let start = ContinuousClock.now

    static let isFullTest = ProcessInfo.processInfo.environment["RINGZOO_TEST_ALL"] != nil

    /// A family of MPI with its launcher. Debian can have both at once.
    enum Launcher: String, CaseIterable, Sendable {
        case openMPI = "Open MPI"
        case mpich = "MPICH"

        /// Nil where it is not installed.
        var path: String? {
            let names = self == .openMPI ? ["mpirun.openmpi", "mpirun"] : ["mpirun.mpich", "mpiexec.hydra"]
            let folders = (ProcessInfo.processInfo.environment["PATH"] ?? "").split(separator: ":")
            for name in names {
                for folder in folders where FileManager.default.isExecutableFile(atPath: "\(folder)/\(name)") {
                    return "\(folder)/\(name)"
                }
            }
            return nil
        }

        static let found = allCases.filter { $0.path != nil }
        static let obstacle: Comment = "no mpirun on PATH (apt-get install openmpi-bin)"

        func arguments(_ ranks: Int) -> [String] {
            (self == .openMPI ? ["--oversubscribe"] : []) + ["-n", "\(ranks)"]
        }
    }

    struct Result {
        /// The launcher's exit code, or minus the signal that ended it.
        var code: Int32
        var output: String
        var seconds: Double
    }

    /// Lies beside the test bundle.
    static func program(_ name: String) -> String {
        URL(fileURLWithPath: CommandLine.arguments[0]).deletingLastPathComponent().appendingPathComponent(name).path
    }

    /// Runs `program` on so many ranks to its end.
    static func run(
        _ launcher: Launcher, _ ranks: Int, _ program: String, _ arguments: [String],
        environment: [String: String] = [:]
    ) throws -> Result {
        try MPIJob(launcher, launcher.arguments(ranks) + [Self.program(program)] + arguments, environment).finish()
    }

    /// Starts a launcher with arguments of its own.
    convenience init(_ launcher: Launcher, _ arguments: [String], _ environment: [String: String] = [:]) throws {
        try self.init(program: #require(launcher.path), arguments, environment)
    }

    init(program: String, _ arguments: [String], _ environment: [String: String] = [:]) throws {
        job.executableURL = URL(fileURLWithPath: program)
        job.arguments = arguments
        // Containers of tests run as root, which Open MPI refuses otherwise.
        let permission = ["OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1", "RINGZOO_THREADS": "1"]
        job.environment = ProcessInfo.processInfo.environment.merging(permission) { $1 }.merging(environment) { $1 }
        _ = FileManager.default.createFile(atPath: folder / "output", contents: nil)
        let file = try #require(FileHandle(forWritingAtPath: folder / "output"))
        job.standardOutput = file
        job.standardError = file
        job.standardInput = FileHandle.nullDevice
        job.terminationHandler = { [ended] _ in ended.signal() }
        try job.run()
    }

    /// Waits for the end, and kills what takes longer than `limit` seconds.
    func finish(limit: Double = 60) -> Result {
        if ended.wait(timeout: .now() + limit) == .timedOut {
            kill(job.processIdentifier, SIGKILL)
            Issue.record("\(job.arguments ?? []) did not end within \(limit) s: \(output)")
        }
        job.waitUntilExit()
        let code = job.terminationReason == .uncaughtSignal ? -job.terminationStatus : job.terminationStatus
        return Result(code: code, output: output, seconds: (ContinuousClock.now - start) / .seconds(1))
    }

    var output: String { (try? String(contentsOfFile: folder / "output", encoding: .utf8)) ?? "" }
    var isRunning: Bool { job.isRunning }

    /// The process of a rank that Open MPI started on this machine.
    func processIdentifier(ofRank rank: Int) -> pid_t? {
        let children = try? String(
            contentsOfFile: "/proc/\(job.processIdentifier)/task/\(job.processIdentifier)/children", encoding: .utf8)
        return (children ?? "").split(separator: " ").compactMap { pid_t($0) }.first { child in
            let environment = FileManager.default.contents(atPath: "/proc/\(child)/environ") ?? Data()
            return environment.split(separator: 0).contains(Data("OMPI_COMM_WORLD_RANK=\(rank)".utf8))
        }
    }
}

/// A folder that goes away with the test.
final class TemporaryFolder: Sendable {
    let path = FileManager.default.temporaryDirectory.appendingPathComponent("ringzoo-mpi-\(UUID().uuidString)").path

    init() throws { try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true) }

    deinit { try? FileManager.default.removeItem(atPath: path) }

    static func / (folder: TemporaryFolder, name: String) -> String { folder.path + "/" + name }
}
