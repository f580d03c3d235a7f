import DistributedCore
import TensorCore

/// What every rank of a run must have in common: the program and what it was told.
public struct RankIdentity: Sendable, Hashable {
    public var program: ProgramIdentity
    /// The resolved config or the arguments, as lines.
    public var task: String

    public init(program: ProgramIdentity = .this, task: String) { (self.program, self.task) = (program, task) }

    /// - Throws: `.config` on every rank where one has another identity, naming the difference and both ranks.
    public func agree(over communicator: any Communicator) throws {
        let lines = [program.version, program.commitText] + task.split(separator: "\n").map(String.init)
        let all = try communicator.allGather(lines: lines)
        for (rank, other) in all.enumerated() where other != all[0] {
            let index = zip(all[0], other).enumerated().first { $1.0 != $1.1 }?.offset ?? min(all[0].count, other.count)
            func value(_ lines: [String]) -> String { index < lines.count ? "'\(lines[index])'" : "nothing" }
            let what = index == 0 ? "version" : index == 1 ? "commit" : "config"
            throw RingZooError(
                .config, "ranks do not agree: rank 0 has \(what) \(value(all[0])), rank \(rank) has \(value(other))",
                tried: ["the same program and the same config on every machine would work"])
        }
    }
}

extension Communicator {
    /// Every rank's lines of text, in the order of ranks. A line has no line break in it.
    func allGather(lines: [String]) throws -> [[String]] {
        try allGather(Message([bytes(lines)])).map { text(of: $0.tensors[0]) }
    }

    /// The lines of rank `root`.
    func broadcast(lines: [String], from root: Int) throws -> [String] {
        text(of: try broadcast(Message([bytes(lines)]), from: root).tensors[0])
    }

    private func bytes(_ lines: [String]) -> Tensor {
        Tensor(lines.joined(separator: "\n").utf8.map { Int32($0) }, on: device)
    }

    private func text(of tensor: Tensor) -> [String] {
        let text = String(decoding: tensor.values(Int32.self).map { UInt8(truncatingIfNeeded: $0) }, as: UTF8.self)
        return text.split(separator: "\n", omittingEmptySubsequences: false).map(String.init)
    }
}
