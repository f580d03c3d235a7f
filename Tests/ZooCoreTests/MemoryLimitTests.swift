import Foundation
import Testing

@testable import ZooCore

/// Limits of control groups, read from folders like those of the kernel.
@Suite struct MemoryLimitTests {
    private func limits(_ files: [String: String]) throws -> [Int] {
        let root = NSTemporaryDirectory() + "ringzoo-limits-\(UUID().uuidString)/"
        defer { try? FileManager.default.removeItem(atPath: root) }
        for (path, text) in files {
            let url = URL(fileURLWithPath: root + path)
            try FileManager.default.createDirectory(
                at: url.deletingLastPathComponent(), withIntermediateDirectories: true)
            try Data(text.utf8).write(to: url)
        }
        return MemoryLimit.controlGroups(root: root).map(\.bytes)
    }

    @Test func everyGroupAboveLimits() throws {
        let found = try limits([
            "proc/self/cgroup": "0::/jobs/17/step\n", "sys/fs/cgroup/jobs/memory.max": "4096\n",
            "sys/fs/cgroup/jobs/17/memory.max": "1024\n", "sys/fs/cgroup/jobs/17/step/memory.max": "max\n",
            "sys/fs/cgroup/other/memory.max": "1\n",
        ])
        #expect(found == [4096, 1024])
    }

    /// In a container the group's own files are at the top.
    @Test func theTopGroupCounts() throws {
        #expect(try limits(["proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "512\n"]) == [512])
    }

    @Test func theFirstVersionIsReadToo() throws {
        let found = try limits([
            "proc/self/cgroup": "5:cpu,cpuacct:/a\n4:memory:/a\n",
            "sys/fs/cgroup/memory/a/memory.limit_in_bytes": "2048\n",
            "sys/fs/cgroup/a/memory.max": "7\n",
        ])
        #expect(found == [2048])
    }

    @Test func withoutGroupsThereIsNoLimit() throws {
        #expect(try limits([:]) == [])
        #expect(try limits(["proc/self/cgroup": "nonsense\n0::/a\n"]) == [])
        #expect(MemoryLimit.ofThisMachine().allSatisfy { $0.bytes > 0 })
    }
}
