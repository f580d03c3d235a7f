import CVersion

/// Which program this is. What it computes may change in its last bits from one commit to the next.
public struct ProgramIdentity: Sendable, Codable, Hashable, CustomStringConvertible {
    public var version: String
    /// With a `+` where files had changed since; nil where the build did not know it.
    public var commit: String?

    public init(version: String, commit: String? = nil) { (self.version, self.commit) = (version, commit) }

    /// The one that runs.
    public static var this: ProgramIdentity {
        let commit = String(cString: rz_commit())
        return ProgramIdentity(version: String(cString: rz_version()), commit: commit == RZ_NO_COMMIT ? nil : commit)
    }

    var commitText: String { commit ?? RZ_NO_COMMIT }
    public var description: String { "\(version) (\(commitText))" }
}
