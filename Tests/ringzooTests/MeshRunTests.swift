import Foundation
import Synchronization
import TensorCore
import Testing
import ZooCore
import ZooStandard

/// Runs on meshes of ranks: the same files, and going on on another mesh.
@Suite struct MeshRunTests {
    /// Four rows a batch, and heads that two or four ranks can share.
    static let model = ["model.heads=4", "model.keyHeads=4", "model.headSize=8", "data.batch=4"]

    private func run(_ folder: TrainingFolder, _ directory: String, _ settings: [String]) throws -> TrainingRun {
        try TrainingRun(
            RunConfig.load(path: folder.config(directory), overrides: Self.model + settings), in: ZooStandard.zoo(),
            threads: 1)
    }

    private func mesh(_ data: Int, _ sequence: Int, _ tensor: Int, sharded: Bool = true) -> [String] {
        [
            "parallel.data=\(data)", "parallel.sequence=\(sequence)", "parallel.tensor=\(tensor)",
            "parallel.shardParameters=\(sharded)", "attention.backend=\(sequence > 1 ? "ring" : "cpu")",
        ]
    }

    /// Rank 0 puts every tensor together while it writes: the file does not tell how the weights lay.
    @Test func aShardedRunSavesTheSameFile() throws {
        let folder = try TrainingFolder()
        let settings = ["run.steps=3", "optimizer.clip=none", "memory.rematerialise=block"]
        try run(folder, "replicated", settings + mesh(1, 3, 1, sharded: false)).logged()
        try run(folder, "sharded", settings + mesh(1, 3, 1)).logged()
        let (a, b) = (try folder.tensors("replicated", step: 3), try folder.tensors("sharded", step: 3))
        #expect(a.count == 3 * 21)
        #expect(trainingDifferences(a, b) == [])
    }

    @Test func goingOnOnTheSameMeshIsExactToTheBit() throws {
        let folder = try TrainingFolder()
        let settings = mesh(2, 2, 2)
        let (_, straight) = try run(folder, "straight", settings).logged()
        let (_, start) = try run(folder, "parts", settings + ["run.stopAfter=7"]).logged()
        let (summary, rest) = try run(folder, "parts", settings).logged(resume: true)
        #expect(summary.complete && rest.resumed?.step == 7 && rest.resumed?.inexact == nil)
        #expect((start.steps + rest.steps).map(\.report.loss) == straight.steps.map(\.report.loss))
        let (a, b) = (try folder.tensors("parts", step: 20), try folder.tensors("straight", step: 20))
        #expect(trainingDifferences(a, b) == [])
    }

    @Test func goingOnOnAnotherMeshIsClose() throws {
        let folder = try TrainingFolder()
        let (_, straight) = try run(folder, "straight", []).logged()
        var losses: [Double] = []
        var inexact: [String] = []
        for (step, settings) in [
            (6, mesh(2, 1, 2)), (11, mesh(1, 3, 1)), (15, mesh(1, 1, 4, sharded: false)), (18, mesh(4, 1, 1)), (20, []),
        ] {
            let (summary, log) = try run(folder, "run", settings + ["run.stopAfter=\(step)"]).logged(resume: true)
            #expect(summary.step == step)
            losses += log.steps.map(\.report.loss)
            inexact.append(log.resumed?.inexact ?? "")
        }
        #expect(inexact[1].contains("ranks: 4 before, 3 now"))
        #expect(
            inexact[3].contains(
                "mesh: data 1 x sequence 1 x tensor 4 before, data 4 x sequence 1 x tensor 1, sharded now"))
        #expect(losses.count == 20)
        for (loss, reference) in zip(losses, straight.steps.map(\.report.loss)) {
            #expect(abs(loss / reference - 1) < TrainingRunTests.otherOrder)
        }
    }

    /// A tensor that is being put together while the disk is slow: nobody takes rank 0 for lost.
    @Test func aSlowShardedSaveIsNotALostRank() throws {
        let folder = try TrainingFolder()
        let writes = Counter()
        let slow = FaultyFileSystem { call, _ in
            // One write in the middle of the tensors, and the end.
            guard call == .synchronize || (call == .write && writes.next() == 10) else { return }
            let end = Date().addingTimeInterval(1.2)
            while Date() < end { sched_yield() }
        }
        let (summary, _) = try run(
            folder, "run", mesh(1, 3, 1) + ["run.steps=2", "run.checkpointEvery=2", "parallel.deadline=1"]
        ).logged(fileSystem: slow)
        #expect(summary.complete && folder.steps("run") == [2])
        #expect(writes.value > 10)
    }

    /// A full disk in the middle of a save ends all ranks, and the checkpoint before is as it was.
    @Test func aFullDiskEndsAllRanksAndKeepsTheCheckpoint() throws {
        let folder = try TrainingFolder()
        let settings = mesh(1, 3, 1) + ["run.steps=6", "run.checkpointEvery=2"]
        try run(folder, "run", settings + ["run.stopAfter=2"]).logged()
        let before = try folder.tensors("run", step: 2)
        let writes = Counter()
        let full = FaultyFileSystem { call, path in
            if call == .write && writes.next() > 10 {
                throw RingZooError(.inputOutput, "cannot write \(path)", tried: ["No space left on device"])
            }
        }
        let begin = Date()
        let error = trainingFault { try run(folder, "run", settings).logged(resume: true, fileSystem: full) }
        #expect(error?.code == .inputOutput)
        #expect(Date().timeIntervalSince(begin) < 20)
        #expect(folder.steps("run") == [2])
        #expect(trainingDifferences(try folder.tensors("run", step: 2), before) == [])
    }
}

private final class Counter: Sendable {
    private let count = Mutex(0)

    var value: Int { count.withLock { $0 } }
    func next() -> Int {
        count.withLock {
            $0 += 1
            return $0
        }
    }
}
