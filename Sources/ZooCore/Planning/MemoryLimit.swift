import Foundation
import TensorCore

/// A limit on the memory of this process, or of all on this machine.
public struct MemoryLimit: Sendable, Hashable {
    public var bytes: Int
    /// For people: "the machine's memory".
    public var name: String
    /// Whether each process has so much, and not all together.
    public var isPerProcess: Bool

    public init(bytes: Int, name: String, isPerProcess: Bool) {
        (self.bytes, self.name, self.isPerProcess) = (bytes, name, isPerProcess)
    }

    /// The machine's memory, the limits of the control groups this process is in, and the limit on its address space (`ulimit -v`).
    ///
    /// What other processes use at the moment is not subtracted: it may be gone in the next. Swap is not counted.
    public static func ofThisMachine() -> [MemoryLimit] {
        let machine = MemoryLimit(
            bytes: Int(clamping: ProcessInfo.processInfo.physicalMemory), name: "the machine's memory",
            isPerProcess: false)
        return [machine] + controlGroups() + addressSpace()
    }

    /// - Parameter root: the folder that `proc` and `sys` lie in, for tests.
    static func controlGroups(root: String = "/") -> [MemoryLimit] {
        func text(_ path: String) -> String? {
            (try? String(contentsOfFile: root + path, encoding: .utf8))?.trimmingCharacters(in: .whitespacesAndNewlines)
        }
        let groups = text("proc/self/cgroup")?.split(separator: "\n") ?? []
        return groups.flatMap { line -> [MemoryLimit] in
            // NUMBER:CONTROLLERS:PATH; version 2 has no controllers and one line.
            let fields = line.split(separator: ":", maxSplits: 2, omittingEmptySubsequences: false)
            guard fields.count == 3 else { return [] }
            let isSecondVersion = fields[1].isEmpty
            if !isSecondVersion && !fields[1].split(separator: ",").contains("memory") { return [] }
            let folder = isSecondVersion ? "sys/fs/cgroup" : "sys/fs/cgroup/memory"
            let file = isSecondVersion ? "memory.max" : "memory.limit_in_bytes"
            // Every group above limits too. One that has no limit says "max", or a number larger than any memory.
            let names = fields[2].split(separator: "/")
            return (0...names.count).compactMap { depth in
                let group = "/" + names.prefix(depth).joined(separator: "/")
                let path = folder + (depth == 0 ? "" : group) + "/" + file
                return text(path).flatMap { Int($0) }.map {
                    MemoryLimit(bytes: $0, name: "the memory of the control group \(group)", isPerProcess: false)
                }
            }
        }
    }

    private static func addressSpace() -> [MemoryLimit] {
        var limit = rlimit()
        guard getrlimit(__rlimit_resource_t(RLIMIT_AS.rawValue), &limit) == 0 else { return [] }
        // "Unlimited" is the largest number there is.
        let bytes = Int(clamping: limit.rlim_cur)
        if bytes == .max { return [] }
        return [
            MemoryLimit(bytes: bytes, name: "the address space of a process (ulimit -v)", isPerProcess: true)
        ]
    }
}
