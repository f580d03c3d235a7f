import Foundation
import Synchronization
import TensorCore
import Testing

@testable import CheckpointCore

/// A save that fails or dies at any point leaves the old checkpoint, or has the new one in place; never anything
/// between.
@Suite struct CheckpointFaultTests {
    let folder = try! TemporaryFolder()
    let old = Sample.small(seed: 1)
    let new = Sample.small(seed: 2)

    /// Runs `save` with the n-th call failing for n = 1, 2, ... until none fails; gives the calls that failed.
    private func failEachCall(
        from first: Int = 1, andAllAfter: Bool, _ save: (HookedFileSystem) throws -> Void
    ) throws -> [HookedFileSystem.Call] {
        let path = folder.file("a.h5")
        var reached: [HookedFileSystem.Call] = []
        for n in first..<200 {
            try old.save(path)
            let plan = FaultPlan { andAllAfter ? $0 >= n : $0 == n }
            let error: (any Error)?
            do {
                try save(plan.fileSystem)
                error = nil
            } catch let thrown { error = thrown }
            guard let call = plan.failed.first else {
                #expect(error == nil)
                #expect(try new.isAt(path))
                return reached
            }
            reached.append(call)
            if let error {
                #expect((error as? RingZooError)?.code == .inputOutput, "call \(n), \(call.rawValue): \(error)")
                // Only the last step comes after the new name is in place.
                if call == .synchronizeDirectory {
                    #expect(try new.isAt(path))
                } else {
                    #expect(try old.isAt(path), "call \(n), \(call.rawValue)")
                }
            } else {
                #expect(call == .list, "only sweeping may fail without notice, not \(call.rawValue)")
                #expect(try new.isAt(path))
            }
        }
        Issue.record("200 calls and no end")
        return reached
    }

    @Test(arguments: [false, true])
    func failureOfAnyCallLeavesTheOldCheckpoint(_ andAllAfter: Bool) throws {
        let reached = try failEachCall(andAllAfter: andAllAfter) { try new.save(folder.file("a.h5"), $0) }
        #expect(
            Set(reached) == [.list, .open, .truncate, .reserve, .write, .synchronize, .rename, .synchronizeDirectory])
        #expect(reached.filter { $0 == .write }.count >= 6, "skeleton, three tensors, manifest, header")
        // What could not be removed while everything failed is removed by the next save.
        #expect(folder.names == ["a.h5"])
    }

    @Test func failureOfAnyCallOfAPlainFileLeavesTheOldOne() throws {
        let path = folder.file("plain.h5")
        for n in 1..<100 {
            try HDF5File.write(path, tensors: old.sources)
            let plan = FaultPlan { $0 == n }
            let error = fault { try HDF5File.write(path, tensors: new.sources, fileSystem: plan.fileSystem) }
            guard let call = plan.failed.first else { return }
            let isNew = error == nil || call == .synchronizeDirectory
            #expect(try (isNew ? new : old).equals(HDF5File.readForeign(path)))
            #expect(error?.code == .inputOutput || call == .list)
        }
        Issue.record("100 calls and no end")
    }

    @Test func shortWritesMakeTheSameFile() throws {
        try new.save(folder.file("whole.h5"))
        let fileSystem = HookedFileSystem(before: { _ in }, writable: { max(1, $0 / 3) })
        try new.save(folder.file("pieces.h5"), fileSystem)
        #expect(try readFile(folder.file("whole.h5")) == readFile(folder.file("pieces.h5")))
    }

    @Test func failingSourceLeavesTheOldCheckpoint() throws {
        let path = folder.file("a.h5")
        try old.save(path)
        let source = TensorSource(TensorInfo(name: "a", shape: [4], dtype: .float32)) { _ in
            throw RingZooError(.failed, "device lost")
        }
        #expect(fault { try CheckpointWriter.save(path, tensors: [source]) }?.message == "device lost")
        #expect(try old.isAt(path))
        #expect(folder.names == ["a.h5"])
    }

    @Test func twoWritersOfOneFileExcludeEachOther() throws {
        let path = folder.file("a.h5")
        let first = try CheckpointWriter(path, tensors: [])
        let error = fault { try new.save(path) }
        #expect(error?.code == .inputOutput && error?.message.contains("another process is writing it") == true)
        // A save of another file must not sweep the one that is still alive.
        try new.save(folder.file("b.h5"))
        try first.commit()
        #expect(folder.names == ["a.h5", "b.h5"])
    }

    @Test func staleFileOfADeadWriterIsSwept() throws {
        try writeFile(folder.file(".b.h5" + AtomicFile.suffix), [1, 2, 3])
        try writeFile(folder.file(".keep"), [1])
        try new.save(folder.file("a.h5"))
        #expect(folder.names == [".keep", "a.h5"])
    }

    /// Ends the process before the n-th call, where a large write is two calls.
    @Test func killAtAnyPointLeavesAWholeCheckpoint() async throws {
        let path = folder.file("a.h5")
        let calls = Mutex([HookedFileSystem.Call]())
        try new.save(path, Self.tearing { call in calls.withLock { $0.append(call) } })
        let order = calls.withLock { $0 }
        #expect(order.suffix(3) == [.synchronize, .rename, .synchronizeDirectory])
        // The last three calls, and seven points before them.
        let points = Set((0..<7).map { 2 + $0 * (order.count - 5) / 6 } + (order.count - 2...order.count))
        for n in points.sorted() {
            try old.save(path)
            await #expect(processExitsWith: .signal(SIGKILL)) { [path = path as String, n = n as Int] in
                let count = Mutex(0)
                let fileSystem = Self.tearing { _ in
                    let number = count.withLock { count in
                        count += 1
                        return count
                    }
                    if number == n { kill(getpid(), SIGKILL) }
                }
                try Sample.small(seed: 2).save(path, fileSystem)
            }
            let isNew = order[n - 1] == .synchronizeDirectory
            #expect(try (isNew ? new : old).isAt(path), "killed before call \(n), \(order[n - 1].rawValue)")
            try Sample.small(seed: 3).save(folder.file("next.h5"))
            #expect(folder.names == ["a.h5", "next.h5"], "the next save sweeps what the dead one left")
        }
    }

    private static func tearing(_ before: @escaping @Sendable (HookedFileSystem.Call) throws -> Void)
        -> HookedFileSystem
    {
        HookedFileSystem(before: before, writable: { $0 >= 4096 ? $0 / 2 : $0 })
    }

    @Test func killAtARandomTimeLeavesAWholeCheckpoint() async throws {
        let path = folder.file("a.h5")
        for microseconds in [50, 300, 1_000, 3_000, 7_000] {
            await #expect(processExitsWith: .signal(SIGKILL)) {
                [path = path as String, microseconds = microseconds as Int] in
                let large = { (seed: UInt64) in
                    Sample(
                        (0..<8).map { TensorInfo(name: "w.\($0)", shape: [16_384], dtype: .float32) }, seed: seed,
                        metadata: ["step": "\(seed)"])
                }
                let samples = (1...2).map { large($0) }
                try samples[0].save(path)
                Thread.detachNewThread {
                    let end = ContinuousClock.now + .microseconds(microseconds)
                    while ContinuousClock.now < end {}
                    kill(getpid(), SIGKILL)
                }
                for step in 0... { try samples[step % 2].save(path) }
            }
            let reader = try CheckpointReader(path)
            let step = try #require(UInt64(reader.metadata["step"] ?? ""))
            let whole = Sample(
                (0..<8).map { TensorInfo(name: "w.\($0)", shape: [16_384], dtype: .float32) }, seed: step)
            #expect(try whole.equals(reader), "killed after \(microseconds) microseconds")
        }
    }

    @Test(.enabled(if: TemporaryDisk.isPermitted, "mounting a small tmpfs is not permitted here"))
    func fullDiskLeavesTheOldCheckpointAndSaysSo() throws {
        let disk = try TemporaryDisk(folder.file("disk"), byteCount: 1 << 20)
        defer { disk.unmount() }
        let path = disk.path + "/a.h5"
        try old.save(path)
        let big = Sample([TensorInfo(name: "big", shape: [1 << 20], dtype: .float32)], seed: 1)
        let error = fault { try big.save(path) }
        #expect(error?.code == .inputOutput)
        #expect(error?.message.contains("reserve") == true && error?.message.contains("No space left") == true)
        #expect(try old.isAt(path))
        #expect(try FileManager.default.contentsOfDirectory(atPath: disk.path) == ["a.h5"])
        // There is room again for what fits.
        try new.save(path)
        #expect(try new.isAt(path))
    }

    @Test func fileSizeLimitLeavesTheOldCheckpointAndSaysSo() async throws {
        let path = folder.file("a.h5")
        try old.save(path)
        await #expect(processExitsWith: .success) { [path = path as String] in
            signal(SIGXFSZ, SIG_IGN)
            var limit = rlimit(rlim_cur: 100_000, rlim_max: 100_000)
            setrlimit(__rlimit_resource_t(RLIMIT_FSIZE.rawValue), &limit)
            let big = Sample([TensorInfo(name: "big", shape: [1 << 20], dtype: .float32)], seed: 1)
            let error = fault { try big.save(path) }
            precondition(error?.code == .inputOutput)
            let isOld = try Sample.small(seed: 1).isAt(path)
            precondition(isOld)
        }
        #expect(folder.names == ["a.h5"])
    }
}

/// A file system of its own size in memory.
struct TemporaryDisk {
    let path: String

    static let isPermitted: Bool = {
        guard let folder = try? TemporaryFolder(),
            let disk = try? TemporaryDisk(folder.file("probe"), byteCount: 65_536)
        else { return false }
        disk.unmount()
        return true
    }()

    init(_ path: String, byteCount: Int) throws {
        try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true)
        self.path = path
        guard mount("tmpfs", path, "tmpfs", 0, "size=\(byteCount)") == 0 else {
            throw RingZooError(.inputOutput, "mount: \(String(cString: strerror(errno)))")
        }
    }

    func unmount() { _ = umount2(path, Int32(2)) }  // MNT_DETACH
}
