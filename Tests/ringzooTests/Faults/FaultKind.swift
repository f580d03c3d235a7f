import ConformanceKit
import Foundation
import Testing

/// Something that goes wrong in a run on three ranks, of which rank 1 is at fault, and how the run ends.
struct FaultKind: Sendable, CustomTestStringConvertible {
    enum Ranks: Sendable { case threads, processes }

    enum Cause: Sendable {
        /// A block of keys and values is harmed on its way from rank 1 to rank 2, in layer 1 of step 5.
        case block(FaultyLink.Fault, between: Ranks)
        /// Rank 1 is cut off while rank 0 writes the checkpoint of step 6.
        case cutOffInSave
        /// Rank 1 has no memory left after step 4.
        case memory
        /// The disk refuses the checkpoint of step 6 in this call, with these words.
        case disk(FaultyFileSystem.Call, String)
        /// The newest checkpoint is harmed after it was written: its second half is missing, or a bit is another.
        case checkpoint(isCut: Bool)
        /// The process of rank 1 gets a signal after step 4.
        case signal(Int32)
        /// Rank 1 is started with another config, by another version, or later than the others.
        case otherConfig, otherVersion, lateStart
    }

    let name: String
    let cause: Cause
    /// The exit code of the run that meets it.
    let code: Int32
    /// For each of these, all its words stand in one line of what the ranks say.
    let lines: [[String]]

    var testDescription: String { name }

    /// Whether ranks are processes that mpirun starts, and not threads.
    var needsProcesses: Bool {
        switch cause {
        case .block(_, let ranks): ranks == .processes
        case .cutOffInSave, .memory, .disk, .checkpoint: false
        case .signal, .otherConfig, .otherVersion, .lateStart: true
        }
    }

    static let betweenThreads: [FaultKind] =
        FaultyLink.Fault.allCases.map { block($0, between: .threads) } + [
            FaultKind(
                name: "a rank is cut off during a save", cause: .cutOffInSave, code: 75,
                lines: [["lost rank 1 in"]] + everyRank("lost rank")),
            FaultKind(
                name: "a rank has no memory left", cause: .memory, code: 1,
                lines: [["error: out of memory budget"]] + others(of: 1, "rank 1 failed: out of memory budget")),
            FaultKind(
                name: "the disk is full", cause: .disk(.write, "No space left on device"), code: 74,
                lines: [["error: cannot write", "No space left"]] + others(of: 0, "rank 0 failed: cannot write")),
            FaultKind(
                name: "the disk fails", cause: .disk(.synchronize, "Input/output error"), code: 74,
                lines: [["error: cannot write", "Input/output error"]] + others(of: 0, "rank 0 failed: cannot write")),
            FaultKind(
                name: "a bit of the last checkpoint is another", cause: .checkpoint(isCut: false), code: 0, lines: []),
            FaultKind(name: "the last checkpoint is cut short", cause: .checkpoint(isCut: true), code: 0, lines: []),
        ]

    /// All faults of blocks in the full test, and here those that MPI has a part in.
    static let blocksBetweenProcesses: [FaultKind] =
        (FaultTableTests.full ? FaultyLink.Fault.allCases : [.drop, .cutOff, .duplicate, .truncate, .bitFlip])
        .map { block($0, between: .processes) }

    static let betweenProcesses: [FaultKind] =
        blocksBetweenProcesses + [
            FaultKind(
                name: "a rank is killed", cause: .signal(SIGKILL), code: 128 + SIGKILL,
                lines: [["rank 0 was waiting for rank"], ["rank 2 was waiting for rank"]]),
            FaultKind(
                name: "a rank is stopped", cause: .signal(SIGSTOP), code: 75,
                lines: [["lost rank 1 in"]] + others(of: 1, "lost rank")),
            FaultKind(
                name: "a rank has another config", cause: .otherConfig, code: 78,
                lines: [["rank 0 has config '  rate: 0.001', rank 1 has '  rate: 0.002'"]]),
            FaultKind(
                name: "a rank has another version", cause: .otherVersion, code: 78,
                lines: [["rank 0 has version '", "rank 1 has '0.0.0-other'"]]),
            FaultKind(
                name: "a rank starts a second late", cause: .lateStart, code: 0, lines: [["ended early as asked"]]),
        ]

    /// Rank 2 meets it and says where; every rank ends with an error of its own.
    private static func block(_ fault: FaultyLink.Fault, between ranks: Ranks) -> FaultKind {
        let disorder = ["one was lost, repeated or overtaken"]
        // Nothing arrived at rank 2, or what rank 0 sent was not taken: both wait for rank 1, and what the first of them says is what all say.
        let late = ["within"]
        let (name, words) =
            switch fault {
            case .drop: ("a block is lost", disorder)
            case .delay: ("a block comes too late", late)
            case .duplicate: ("a block comes twice", disorder)
            case .reorder: ("two blocks change places", disorder)
            case .truncate: ("a block is cut short", ["its packet is truncated"])
            case .bitFlip: ("a bit of a block is another", ["changed on the way (checksum)"])
            case .headerBitFlip: ("a bit of a header is another", ["header of its packet is damaged"])
            case .cutOff: ("a rank is cut off", late)
            }
        // A block that comes twice is in the way of the next one.
        let hop = fault == .duplicate ? 1 : 0
        let place = ["error: rank 2 lost rank 1 in rotate (", "hop \(hop),", "in the attention of layer 1"]
        // A process that sleeps for longer than its job lasts says nothing.
        let isSilent = fault == .delay && ranks == .processes
        return FaultKind(
            name: name, cause: .block(fault, between: ranks), code: 75,
            lines: [place + words] + (isSilent ? others(of: 1, "lost rank") : everyRank("lost rank")))
    }

    private static func everyRank(_ words: String) -> [[String]] { (0..<3).map { ["error: rank \($0)", words] } }

    private static func others(of culprit: Int, _ words: String) -> [[String]] {
        (0..<3).filter { $0 != culprit }.map { ["error: rank \($0) lost rank", words] }
    }
}
