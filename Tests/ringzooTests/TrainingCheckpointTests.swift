import CheckpointCore
import Foundation
import Synchronization
import TensorCore
import Testing
import ZooCore

/// Disks that fail, files that are damaged, folders that belong to others.
@Suite struct TrainingCheckpointTests {
    /// A disk that refuses from some call on, in each kind of call that a save makes.
    @Test(arguments: ["reserve", "write", "synchronize", "rename"], [1, 3])
    func aFailedSaveEndsAllRanksAndKeepsTheLastCheckpoint(_ name: String, _ ranks: Int) throws {
        let call = try #require(FaultyFileSystem.Call(rawValue: name))
        let folder = try TrainingFolder()
        let run = try folder.run(
            "run", "run.checkpointEvery=2", "attention.backend=\(ranks == 1 ? "cpu" : "ring")",
            "parallel.sequence=\(ranks)")
        let failing = FaultyFileSystem { now, path in
            if now == call && path.contains("step-00000006") {
                throw RingZooError(.inputOutput, "cannot write \(path): No space left on device")
            }
        }
        let begin = Date()
        let error = trainingFault { try run.logged(fileSystem: failing) }
        #expect(error?.code == .inputOutput)
        #expect(error?.message.contains("No space left on device") == true)
        #expect(Date().timeIntervalSince(begin) < 20)
        #expect(folder.steps("run") == [2, 4])
        let newest = try CheckpointDirectory.newest(in: folder.file("run/checkpoints"))
        #expect(newest.reader?.path == folder.checkpoint("run", step: 4))
        #expect(newest.damaged.isEmpty)
        // And the run goes on from there when the disk is well again.
        #expect(try run.logged(resume: true).log.steps.first?.report.step == 5)
        #expect(try folder.losses("run").map(\.step) == Array(1...20))
    }

    @Test(.enabled(if: SmallDisk.obstacle == nil, SmallDisk.obstacle))
    func aFullDiskEndsWith74AndTheRunGoesOnWhenThereIsRoom() throws {
        let folder = try TrainingFolder()
        let straight = try TrainingProgram.run(
            ["train", try folder.config("straight"), "--set", "model.width=64"], in: folder)
        #expect(straight.code == 0, "\(straight.said)")
        let size = try Data(contentsOf: URL(fileURLWithPath: folder.checkpoint("straight", step: 20))).count
        // Room for two checkpoints and a half.
        let disk = try SmallDisk(bytes: size * 5 / 2)
        let directory = disk.path + "/run"
        let arguments = [
            "train", try folder.config("run"), "--set", "model.width=64", "--set", "run.directory=\(directory)",
            "--set",
            "run.checkpointEvery=1", "--resume",
        ]
        let full = try TrainingProgram.run(arguments, in: folder)
        #expect(full.code == 74, "\(full.said)")
        #expect(full.said.contains("No space left on device"))
        #expect(full.said.contains("free some space"))
        let newest = try CheckpointDirectory.newest(in: directory + "/checkpoints")
        #expect(newest.reader?.path.hasSuffix(CheckpointDirectory.name(ofStep: 2)) == true)
        #expect(newest.damaged.isEmpty)

        try disk.remount("size=\(size * 8)")
        let resumed = try TrainingProgram.run(arguments, in: folder)
        #expect(resumed.code == 0, "\(resumed.said)")
        let end = try CheckpointReader(directory + "/checkpoints/" + CheckpointDirectory.name(ofStep: 20))
        let expected = try folder.tensors("straight", step: 20)
        #expect(end.tensors.count == expected.count)
        for info in end.tensors {
            #expect(try end.bytes(of: info.name).withUnsafeBytes { Array($0) } == expected[info.name], "\(info.name)")
        }
    }

    @Test(.enabled(if: SmallDisk.obstacle == nil, SmallDisk.obstacle))
    func aDirectoryThatCannotBeWrittenEndsWith74() throws {
        let folder = try TrainingFolder()
        let disk = try SmallDisk(bytes: 1 << 20)
        try disk.remount("ro")
        let result = try TrainingProgram.run(
            ["train", try folder.config("run"), "--set", "run.directory=\(disk.path)/run"], in: folder)
        #expect(result.code == 74, "\(result.said)")
        #expect(result.said.contains("\(disk.path)/run") && result.said.contains("Read-only file system"))
    }

    @Test func aPathThatIsAFileEndsWith74() throws {
        let folder = try TrainingFolder()
        try folder.write("not a folder", to: "file")
        let result = try TrainingProgram.run(
            ["train", try folder.config("run"), "--set", "run.directory=\(folder.file("file"))/run"], in: folder)
        #expect(result.code == 74, "\(result.said)")
        #expect(result.said.contains("Not a directory"))
        #expect(try String(contentsOfFile: folder.file("file"), encoding: .utf8) == "not a folder")
    }

    @Test func twoJobsInOneDirectoryAreKeptApart() throws {
        let folder = try TrainingFolder()
        try folder.run("run", "run.steps=2").logged()
        let first = try CheckpointDirectory(folder.file("run/checkpoints"))
        let before = try folder.contents("run")
        let result = try TrainingProgram.run(["train", try folder.config("run"), "--resume"], in: folder)
        #expect(result.code == 74, "\(result.said)")
        #expect(result.said.contains("in use by another job (process \(ProcessInfo.processInfo.processIdentifier) "))
        #expect(try trainingDifferences(folder.contents("run"), before) == [])
        _ = first
    }

    /// Places to damage, as shares of the file, and the file cut short there.
    @Test(arguments: [0.001, 0.3, 0.7, 0.999], [true, false])
    func aDamagedCheckpointIsNamedAndTheOneBeforeIsUsed(_ place: Double, _ isCut: Bool) throws {
        let folder = try TrainingFolder()
        try folder.run("straight", "run.steps=6").logged()
        try folder.run("run", "run.steps=6", "run.stopAfter=4", "run.checkpointEvery=2").logged()
        let damaged = folder.checkpoint("run", step: 4)
        try damage(damaged, at: place, cut: isCut)

        let (summary, log) = try folder.run("run", "run.steps=6").logged(resume: true)
        #expect(summary.complete)
        #expect(log.resumed?.step == 2)
        #expect(log.notes.contains { $0.contains("passed over \(damaged)") })
        #expect(try folder.losses("run") == folder.losses("straight"))
        #expect(try trainingDifferences(folder.tensors("run", step: 6), folder.tensors("straight", step: 6)) == [])
    }

    @Test(arguments: [true, false])
    func withoutAWholeCheckpointNothingIsOverwritten(_ isCut: Bool) throws {
        let folder = try TrainingFolder()
        try folder.run("run", "run.stopAfter=2").logged()
        let damaged = folder.checkpoint("run", step: 2)
        try damage(damaged, at: 0.5, cut: isCut)
        let before = try folder.contents("run")
        let config = try folder.config("run")
        for arguments in [["train", config, "--resume"], ["train", config]] {
            let result = try TrainingProgram.run(arguments, in: folder)
            #expect(result.code == (arguments.count == 3 ? 65 : 78), "\(result.said)")
            #expect(result.said.contains(arguments.count == 3 ? damaged : folder.file("run")))
            #expect(try trainingDifferences(folder.contents("run"), before) == [])
        }
        // Nor is it taken as a start for another run.
        let start = try TrainingProgram.run(
            ["train", try folder.config("other"), "--set", "model={from: \(damaged)}"], in: folder)
        #expect(start.code == 65, "\(start.said)")
        #expect(start.said.contains(damaged))
        #expect(!FileManager.default.fileExists(atPath: folder.file("other")))
    }

    private func damage(_ path: String, at place: Double, cut: Bool) throws {
        var bytes = try Data(contentsOf: URL(fileURLWithPath: path))
        let index = Int(place * Double(bytes.count))
        if cut { bytes.removeSubrange(index...) } else { bytes[index] ^= 0x10 }
        try bytes.write(to: URL(fileURLWithPath: path))
    }

    /// Any HDF5 tool can read what a run leaves behind.
    @Test(.enabled(if: hasH5py, "needs python3 with h5py"))
    func h5pyListsEveryTensor() throws {
        let folder = try TrainingFolder()
        try folder.run("run", "run.steps=1").logged()
        let path = folder.checkpoint("run", step: 1)
        let script = """
            import h5py, sys
            def show(name, item):
                if isinstance(item, h5py.Dataset):
                    print(name.replace("/", "."), list(item.shape), item.dtype)
            h5py.File(sys.argv[1], "r")["tensors"].visititems(show)
            """
        let listed = try python(["-c", script, path]).split(separator: "\n").map(String.init)
        let expected = try CheckpointReader(path).tensors.map { "\($0.name) \($0.shape) \($0.dtype.rawValue)" }
        #expect(expected.count == 3 * 21)
        #expect(listed.sorted() == expected.sorted())
    }
}

private let hasH5py = (try? python(["-c", "import h5py; print('yes')"])) == "yes\n"

/// What python3 prints; throws where there is none or it fails.
private func python(_ arguments: [String]) throws -> String {
    let process = Process()
    process.executableURL = URL(fileURLWithPath: "/usr/bin/env")
    process.arguments = ["python3"] + arguments
    let output = Pipe()
    process.standardOutput = output
    process.standardError = FileHandle.nullDevice
    try process.run()
    let data = output.fileHandleForReading.readDataToEndOfFile()
    process.waitUntilExit()
    if process.terminationStatus != 0 { throw RingZooError(.failed, "python3 failed") }
    return String(decoding: data, as: UTF8.self)
}
