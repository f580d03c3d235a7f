/// The one error type of RingZoo: everything that comes from outside (files, configs, plugins, peers, devices) and fails
/// is reported with it. Programmer errors (shapes) trap instead; see `shapeFault`.
///
/// It is thrown with plain `throws`, so that a plugin may throw errors of its own.
public struct RingZooError: Error, Sendable {
    /// What kind of failure this is; decides the exit code of the command line.
    public enum Code: String, Sendable, Hashable, CaseIterable {
        case failed, usage, corruptInput, missingInput, internalFailure, inputOutput, interrupted, config

        /// The process exit code (sysexits): 1 failed run, 64 usage, 65 corrupt or hostile input, 66 input missing, 70 internal,
        /// 74 disk or I/O, 75 stopped on purpose or by a lost or hung rank (run again to resume), 78 bad config.
        public var exitCode: Int32 {
            switch self {
            case .failed: 1
            case .usage: 64
            case .corruptInput: 65
            case .missingInput: 66
            case .internalFailure: 70
            case .inputOutput: 74
            case .interrupted: 75
            case .config: 78
            }
        }
    }

    public var code: Code
    /// What went wrong and where, in one sentence that names the values at fault.
    public var message: String
    /// What was tried, and what would work; one line each. May be empty.
    public var tried: [String]
    /// The error that caused this one, where there is one.
    public var underlying: (any Error)?

    public init(_ code: Code, _ message: String, tried: [String] = [], underlying: (any Error)? = nil) {
        self.code = code
        self.message = message
        self.tried = tried
        self.underlying = underlying
    }
}

extension RingZooError: CustomStringConvertible {
    public var description: String {
        var lines = [message] + tried.map { "  " + $0 }
        if let underlying { lines.append("  caused by: \(underlying)") }
        return lines.joined(separator: "\n")
    }
}
