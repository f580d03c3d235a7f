import CheckpointCore
import Foundation
import Synchronization
import TensorCore
import Testing
import TrainingCore
import ZooCore
import ZooStandard

/// The text that any machine has.
let trainingCorpus = URL(fileURLWithPath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
    .appendingPathComponent("Corpus/harbour.txt").path

/// A folder for one test of training, removed when the value goes away.
final class TrainingFolder: Sendable {
    let path: String

    init() throws {
        path = FileManager.default.temporaryDirectory.appendingPathComponent("ringzoo-\(UUID().uuidString)").path
        try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true)
    }

    deinit { try? FileManager.default.removeItem(atPath: path) }

    func file(_ name: String) -> String { path + "/" + name }

    @discardableResult
    func write(_ text: String, to name: String) throws -> String {
        try Data(text.utf8).write(to: URL(fileURLWithPath: file(name)))
        return file(name)
    }

    /// Every file below a folder and its bytes.
    func contents(_ name: String) throws -> [String: Data] {
        var found: [String: Data] = [:]
        for inner in try FileManager.default.subpathsOfDirectory(atPath: file(name)) {
            let path = file(name) + "/" + inner
            var isFolder: ObjCBool = false
            _ = FileManager.default.fileExists(atPath: path, isDirectory: &isFolder)
            // The lock file names the last process; it holds nothing of the run.
            if isFolder.boolValue || inner.hasSuffix(".ringzoo-lock") { continue }
            found[inner] = try Data(contentsOf: URL(fileURLWithPath: path))
        }
        return found
    }

    /// Writes a config of a two-layer model of width 32 on the corpus, over which the settings go.
    func config(_ directory: String, name: String = "run.yaml", _ settings: [String] = []) throws -> String {
        let text = """
            model: { name: llama, preset: debug, width: 32, feedForward: 64, heads: 2, keyHeads: 1 }
            attention: { backend: cpu }
            data:
              path: \(trainingCorpus)
              context: 32
              batch: 2
            optimizer:
              rate: 1e-3
            run:
              directory: \(file(directory))
              steps: 20
              evaluateEvery: none
              checkpointEvery: none

            """
        try write(text, to: name)
        return file(name)
    }

    /// A run in this process, of the config above.
    func run(_ directory: String, _ settings: String...) throws -> TrainingRun {
        try TrainingRun(
            RunConfig.load(path: config(directory), overrides: settings), in: ZooStandard.zoo(), threads: 1)
    }

    /// The lines of a run's metrics.
    func metrics(_ directory: String) throws -> [MetricsLine] {
        let text = try String(contentsOfFile: file(directory) + "/metrics.jsonl", encoding: .utf8)
        return try text.split(separator: "\n").map { try JSONDecoder().decode(MetricsLine.self, from: Data($0.utf8)) }
    }

    /// Step and loss of each line that is a step.
    func losses(_ directory: String) throws -> [StepLoss] {
        try metrics(directory).filter(\.isStep).map { StepLoss(step: $0.step, loss: $0.loss) }
    }

    func checkpoint(_ directory: String, step: Int) -> String {
        file(directory) + "/checkpoints/" + CheckpointDirectory.name(ofStep: step)
    }

    /// Changes what a checkpoint says of the program, ranks and kernels that wrote it.
    func rewriteEnvironment(_ directory: String, step: Int, _ change: (inout [String: Any]) -> Void) throws {
        let reader = try CheckpointReader(checkpoint(directory, step: step))
        let text = try #require(reader.metadata[CheckpointText.environment])
        var environment = try #require(try JSONSerialization.jsonObject(with: Data(text.utf8)) as? [String: Any])
        change(&environment)
        var metadata = reader.metadata
        metadata[CheckpointText.environment] = String(
            decoding: try JSONSerialization.data(withJSONObject: environment), as: UTF8.self)
        try CheckpointWriter.save(reader.path, tensors: reader.sources(), metadata: metadata)
    }

    /// The steps with a checkpoint.
    func steps(_ directory: String) -> [Int] {
        (try? CheckpointDirectory.steps(in: file(directory) + "/checkpoints")) ?? []
    }

    /// The bytes of every tensor of a checkpoint.
    func tensors(_ directory: String, step: Int) throws -> [String: [UInt8]] {
        let reader = try CheckpointReader(checkpoint(directory, step: step))
        return try Dictionary(
            uniqueKeysWithValues: reader.tensors.map { info in
                (info.name, try reader.bytes(of: info.name).withUnsafeBytes { Array($0) })
            })
    }
}

/// The names under which two sets of bytes differ; sets that differ are too large to be shown.
func trainingDifferences<Bytes: Equatable>(_ a: [String: Bytes], _ b: [String: Bytes]) -> [String] {
    Set(a.keys).union(b.keys).filter { a[$0] != b[$0] }.sorted()
}

/// A line of `metrics.jsonl`: a step or an evaluation.
struct MetricsLine: Decodable {
    var step: Int
    /// nil where it was not finite.
    var loss: Double?
    var tokens: Int?
    var skipped: Bool?
    var peakBytes, stateBytes: [Int]?
    var validationLoss: Double?

    var isStep: Bool { tokens != nil }
}

/// nil where the loss was not finite.
struct StepLoss: Hashable, Sendable {
    var step: Int
    var loss: Double?
}

/// What a run reported, in order.
final class EventLog: Sendable {
    private let events = Mutex<[TrainingEvent]>([])

    func add(_ event: TrainingEvent) { events.withLock { $0.append(event) } }

    var notes: [String] {
        events.withLock { $0.flatMap { if case .started(let notes) = $0 { notes } else { [String]() } } }
    }
    var steps: [StepMeasure] {
        events.withLock { $0.compactMap { if case .stepped(let measure) = $0 { measure } else { nil } } }
    }
    /// Step and reason of the resume, where there was one.
    var resumed: (step: Int, inexact: String?)? {
        events.withLock {
            for case .resumed(let step, _, let inexact) in $0 { return (step, inexact) }
            return nil
        }
    }
    var evaluations: [Double] {
        events.withLock { $0.compactMap { if case .evaluated(_, let loss, _) = $0 { loss } else { nil } } }
    }
}

extension TrainingRun {
    /// Trains and keeps what was reported.
    @discardableResult
    func logged(
        resume: Bool = false, stop: StopRequest = StopRequest(), fileSystem: any FileSystem = POSIXFileSystem()
    ) throws -> (summary: TrainingSummary, log: EventLog) {
        let log = EventLog()
        return (try train(resume: resume, stop: stop, fileSystem: fileSystem) { log.add($0) }, log)
    }
}

/// The error that `body` throws; nil when it throws none, or one of another type.
func trainingFault(_ body: () throws -> Void) -> RingZooError? {
    do {
        try body()
        return nil
    } catch { return error as? RingZooError }
}

/// The command line program, built beside the tests.
struct TrainingProgram {
    static let path = URL(fileURLWithPath: CommandLine.arguments[0]).deletingLastPathComponent()
        .appendingPathComponent("ringzoo").path

    let process: Process
    private let errorPath: String
    private let ended = DispatchSemaphore(value: 0)

    /// Starts the program with one worker thread; what it says goes to a file in the folder.
    init(_ arguments: [String], in folder: TrainingFolder, environment: [String: String] = [:]) throws {
        try self.init(program: Self.path, arguments, in: folder, environment)
    }

    /// Starts one command a rank, as processes of one job of Open MPI.
    init(onRanks commands: [[String]], in folder: TrainingFolder) throws {
        let ranks = commands.map { ["-n", "1"] + $0 }.joined(separator: [":"])
        // Containers of tests run as root, which Open MPI refuses otherwise.
        let permission = ["OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"]
        try self.init(
            program: #require(RankProgram.mpirun), ["--oversubscribe"] + ranks, in: folder, permission)
    }

    private init(
        program: String, _ arguments: [String], in folder: TrainingFolder, _ environment: [String: String]
    ) throws {
        errorPath = folder.file("said-\(UUID().uuidString).txt")
        _ = FileManager.default.createFile(atPath: errorPath, contents: nil)
        process = Process()
        process.executableURL = URL(fileURLWithPath: program)
        process.arguments = arguments
        process.environment = ProcessInfo.processInfo.environment.merging(
            ["RINGZOO_THREADS": "1"].merging(environment) { $1 }
        ) { $1 }
        let file = try #require(FileHandle(forWritingAtPath: errorPath))
        process.standardError = file
        process.standardOutput = file
        process.standardInput = FileHandle.nullDevice
        process.terminationHandler = { [ended] _ in ended.signal() }
        try process.run()
    }

    /// Runs the program to its end.
    static func run(
        _ arguments: [String], in folder: TrainingFolder, environment: [String: String] = [:]
    ) throws -> (code: Int32, said: String) {
        let program = try TrainingProgram(arguments, in: folder, environment: environment)
        return (program.wait(), program.said)
    }

    /// The exit code, or minus the signal that ended it. What takes longer than `limit` seconds is killed.
    func wait(limit: Double = 300) -> Int32 {
        if ended.wait(timeout: .now() + limit) == .timedOut {
            send(SIGKILL)
            Issue.record("\(process.arguments ?? []) did not end within \(limit) s: \(said)")
        }
        process.waitUntilExit()
        return process.terminationReason == .uncaughtSignal ? -process.terminationStatus : process.terminationStatus
    }

    var said: String { (try? String(contentsOfFile: errorPath, encoding: .utf8)) ?? "" }

    /// Looks again and again, without sleeping, until the condition holds or the program has ended.
    func watch(until condition: () -> Bool) {
        while process.isRunning && !condition() { sched_yield() }
    }

    func send(_ signal: Int32) { kill(process.processIdentifier, signal) }

    /// The process of a rank that Open MPI started.
    func processIdentifier(ofRank rank: Int) -> pid_t? {
        let launcher = process.processIdentifier
        let children = try? String(contentsOfFile: "/proc/\(launcher)/task/\(launcher)/children", encoding: .utf8)
        return (children ?? "").split(separator: " ").compactMap { pid_t($0) }.first { child in
            let environment = FileManager.default.contents(atPath: "/proc/\(child)/environ") ?? Data()
            return environment.split(separator: 0).contains(Data("OMPI_COMM_WORLD_RANK=\(rank)".utf8))
        }
    }
}

/// What starts processes as ranks, and a program that can be one of them.
enum RankProgram {
    /// Open MPI's; nil where it is not installed.
    static let mpirun = (ProcessInfo.processInfo.environment["PATH"] ?? "").split(separator: ":").lazy.flatMap {
        ["\($0)/mpirun.openmpi", "\($0)/mpirun"]
    }.first { FileManager.default.isExecutableFile(atPath: $0) }
    static let obstacle: Comment = "no mpirun on PATH (apt-get install openmpi-bin)"

    /// Built beside the tests; see `Tests/MPIRanks`.
    static let path = URL(fileURLWithPath: CommandLine.arguments[0]).deletingLastPathComponent()
        .appendingPathComponent("mpi-ranks").path
}

/// The real file system, with a hook before every call that changes the disk; it may throw, and may take its time.
struct FaultyFileSystem: FileSystem {
    enum Call: String, Sendable {
        case makeDirectory, open, truncate, reserve, write, synchronize, rename, synchronizeDirectory, remove
    }

    private let real = POSIXFileSystem()
    /// Called with the path the call is about.
    let before: @Sendable (Call, String) throws -> Void

    init(_ before: @escaping @Sendable (Call, String) throws -> Void) { self.before = before }

    func makeDirectory(_ path: String) throws {
        try before(.makeDirectory, path)
        try real.makeDirectory(path)
    }
    func list(_ directory: String) throws -> [String] { try real.list(directory) }
    func openLocked(_ path: String, creating: Bool) throws -> OpenFile? {
        try before(.open, path)
        return try real.openLocked(path, creating: creating)
    }
    func truncate(_ file: OpenFile) throws {
        try before(.truncate, file.path)
        try real.truncate(file)
    }
    func reserve(_ file: OpenFile, byteCount: Int) throws {
        try before(.reserve, file.path)
        try real.reserve(file, byteCount: byteCount)
    }
    func write(_ bytes: UnsafeRawBufferPointer, to file: OpenFile, at offset: Int) throws -> Int {
        try before(.write, file.path)
        return try real.write(bytes, to: file, at: offset)
    }
    func synchronize(_ file: OpenFile) throws {
        try before(.synchronize, file.path)
        try real.synchronize(file)
    }
    func close(_ file: OpenFile) { real.close(file) }
    func rename(_ from: String, to: String) throws {
        try before(.rename, to)
        try real.rename(from, to: to)
    }
    func synchronizeDirectory(_ path: String) throws {
        try before(.synchronizeDirectory, path)
        try real.synchronizeDirectory(path)
    }
    func remove(_ path: String) throws {
        try before(.remove, path)
        try real.remove(path)
    }
    func map(_ path: String) throws -> MappedFile { try real.map(path) }
}

/// A small file system of its own in memory, where the system allows one to be mounted.
final class SmallDisk: Sendable {
    let path: String

    /// Why there can be none here; nil where there can.
    static let obstacle: Comment? = {
        guard geteuid() == 0 else { return "mounting a small file system needs root" }
        do {
            _ = try SmallDisk(bytes: 65_536)
            return nil
        } catch { return "this system does not let root mount a tmpfs" }
    }()

    init(bytes: Int) throws {
        path = FileManager.default.temporaryDirectory.appendingPathComponent("ringzoo-disk-\(UUID().uuidString)").path
        try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true)
        do {
            try Self.mount(["-t", "tmpfs", "-o", "size=\(bytes)", "tmpfs", path])
        } catch {
            try? FileManager.default.removeItem(atPath: path)
            throw error
        }
    }

    deinit {
        try? Self.command("umount", [path])
        try? FileManager.default.removeItem(atPath: path)
    }

    /// Changes the disk: `size=1000000`, `ro`.
    func remount(_ options: String) throws { try Self.mount(["-o", "remount,\(options)", path]) }

    private static func mount(_ arguments: [String]) throws { try command("mount", arguments) }

    private static func command(_ name: String, _ arguments: [String]) throws {
        let process = Process()
        process.executableURL = URL(fileURLWithPath: "/usr/bin/env")
        process.arguments = [name] + arguments
        process.standardError = FileHandle.nullDevice
        try process.run()
        process.waitUntilExit()
        if process.terminationStatus != 0 { throw RingZooError(.failed, "\(name) failed") }
    }
}
