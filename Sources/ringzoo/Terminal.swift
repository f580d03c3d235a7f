import Foundation
import MPICommunicator
import TensorCore

/// Words for people: on standard error where standard output carries data.
enum Terminal {
    static var isInteractive: Bool { isatty(STDERR_FILENO) == 1 }

    /// The rank of this process, where a launcher started it as one of several. All but rank 0 are silent, errors excepted.
    static let rank = MPILinkProvider().launch?.rank ?? 0

    static func error(_ message: String) {
        let speaker = rank == 0 ? "" : "rank \(rank): "
        FileHandle.standardError.write(Data("\(speaker)error: \(message)\n".utf8))
    }

    static func note(_ message: String) {
        if rank == 0 { FileHandle.standardError.write(Data((message + "\n").utf8)) }
    }

    /// Replaces the current line of an interactive terminal.
    static func status(_ message: String) {
        if rank == 0 { FileHandle.standardError.write(Data(("\r\u{1b}[K" + message).utf8)) }
    }

    /// RINGZOO_THREADS, or nil for one per core.
    static func threads() throws -> Int? {
        guard let text = ProcessInfo.processInfo.environment["RINGZOO_THREADS"] else { return nil }
        guard let count = Int(text), count >= 1 else {
            throw RingZooError(
                .config, "RINGZOO_THREADS is '\(text)'", tried: ["a whole number of at least 1 would work"])
        }
        return count
    }

    /// 2 h 05 min, 3 min 20 s, 12 s.
    static func duration(_ seconds: Double) -> String {
        let whole = Int(seconds.rounded())
        if whole >= 3600 { return String(format: "%d h %02d min", whole / 3600, whole % 3600 / 60) }
        if whole >= 60 { return String(format: "%d min %02d s", whole / 60, whole % 60) }
        return "\(whole) s"
    }

    static func number(_ value: Double, _ decimals: Int = 4) -> String { String(format: "%.\(decimals)f", value) }
}
