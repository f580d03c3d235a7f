import Foundation
import TensorCore
import Testing

@testable import CheckpointCore

@Suite struct CheckpointDirectoryTests {
    let folder = try! TemporaryFolder()

    private func save(_ directory: CheckpointDirectory, _ step: Int) throws {
        let sample = Sample.small(seed: UInt64(step))
        try directory.save(step: step, tensors: sample.sources, metadata: sample.metadata)
    }

    private func damage(_ path: String) throws {
        var bytes = try readFile(path)
        bytes[bytes.count - 4000] ^= 1
        try writeFile(path, bytes)
    }

    @Test func namesAndStepsAreOneToOne() {
        #expect(CheckpointDirectory.name(ofStep: 12) == "step-00000012.h5")
        for step in [0, 7, 99_999_999, 100_000_000, Int.max] {
            #expect(CheckpointDirectory.step(ofName: CheckpointDirectory.name(ofStep: step)) == step)
        }
        for name in ["step-12.h5", "step-000000012.h5", "step--0000012.h5", "step-00000012.h5.bak", "x", "step-.h5"] {
            #expect(CheckpointDirectory.step(ofName: name) == nil)
        }
    }

    @Test func onlyTheLastAreKept() throws {
        let directory = try CheckpointDirectory(folder.file("run"), keep: 2)
        for step in [1, 2, 3, 10] { try save(directory, step) }
        #expect(try directory.steps() == [3, 10])
        #expect(try directory.newest().reader?.metadata["step"] == "10")
    }

    @Test func damagedCheckpointFallsBackToTheGoodOneBeforeIt() throws {
        let directory = try CheckpointDirectory(folder.file("run"), keep: 3)
        #expect(try directory.newest().reader == nil)
        for step in [1, 2, 3] { try save(directory, step) }
        try damage(directory.path(ofStep: 3))
        try writeFile(directory.path(ofStep: 2), [])
        let (reader, damaged) = try directory.newest()
        #expect(reader?.metadata["step"] == "1")
        #expect(damaged.map(\.path) == [directory.path(ofStep: 3), directory.path(ofStep: 2)])
        #expect(damaged.allSatisfy { $0.error.message.contains($0.path) })
    }

    @Test func theOneJustSavedIsNeverRemoved() throws {
        // After a fall-back, steps are saved that are older than a damaged newer file.
        let directory = try CheckpointDirectory(folder.file("run"), keep: 1)
        try save(directory, 20)
        try damage(directory.path(ofStep: 20))
        try save(directory, 15)
        #expect(try directory.steps() == [15])
        #expect(try directory.newest().reader?.metadata["step"] == "15")
    }

    @Test func failedSaveRemovesNothing() throws {
        try save(CheckpointDirectory(folder.file("run"), keep: 1), 1)
        for n in 1..<100 {
            let plan = FaultPlan { $0 == n }
            do {
                let directory = try CheckpointDirectory(folder.file("run"), keep: 1, fileSystem: plan.fileSystem)
                try save(directory, 2)
            } catch { #expect((error as? RingZooError)?.code == .inputOutput) }
            let newest = try CheckpointDirectory.newest(in: folder.file("run"))
            #expect(newest.damaged.isEmpty && newest.reader != nil)
            if plan.failed.isEmpty {
                #expect(try CheckpointDirectory.steps(in: folder.file("run")) == [2])
                return
            }
            try? FileManager.default.removeItem(atPath: folder.file("run/step-00000002.h5"))
            if try CheckpointDirectory.steps(in: folder.file("run")).isEmpty {
                try save(CheckpointDirectory(folder.file("run"), keep: 1), 1)
            }
        }
        Issue.record("100 calls and no end")
    }

    @Test func secondJobIsRefusedByNameUntilTheFirstEnds() throws {
        var first: CheckpointDirectory? = try CheckpointDirectory(folder.file("run"))
        let error = fault { _ = try CheckpointDirectory(folder.file("run")) }
        #expect(error?.code == .inputOutput)
        #expect(error?.message.contains("process \(getpid()) on ") == true, "\(error?.message ?? "")")
        #expect(first?.keep == 3)
        first = nil
        #expect(fault { _ = try CheckpointDirectory(folder.file("run")) } == nil)
    }

    @Test func lockOfAKilledJobIsFree() async throws {
        await #expect(processExitsWith: .signal(SIGKILL)) { [path = folder.file("run") as String] in
            let directory = try CheckpointDirectory(path)
            try withExtendedLifetime(directory) {
                _ = try directory.steps()
                kill(getpid(), SIGKILL)
            }
        }
        #expect(fault { _ = try CheckpointDirectory(folder.file("run")) } == nil)
    }

    @Test func keepingNoneIsAConfigError() {
        #expect(fault { _ = try CheckpointDirectory(folder.file("run"), keep: 0) }?.code == .config)
    }

    @Test func folderThatIsAFileIsAnInputOutputError() throws {
        try writeFile(folder.file("run"), [1])
        #expect(fault { _ = try CheckpointDirectory(folder.file("run")) }?.code == .inputOutput)
    }
}
