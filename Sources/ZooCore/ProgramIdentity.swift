import CVersion

/// Which program this is. What it computes may change in its last bits from one commit to the next.
struct ProgramIdentity: Codable, Hashable, CustomStringConvertible {
    var version: String
    /// With a `+` where files had changed since; nil where the build did not know it.
    var commit: String?

    /// The one that runs.
    static var this: ProgramIdentity {
        let commit = String(cString: rz_commit())
        return ProgramIdentity(version: String(cString: rz_version()), commit: commit == RZ_NO_COMMIT ? nil : commit)
    }

    var description: String { "\(version) (\(commit ?? RZ_NO_COMMIT))" }
}
