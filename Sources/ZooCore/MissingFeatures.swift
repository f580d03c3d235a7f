import TensorCore

// Keys that are in the table of the config but whose feature is not there yet. They are refused and never ignored; who adds
// a feature takes its line out of this list and nothing else.
private let missingFeatures: [MissingFeature] = [
    MissingFeature("attention.block", "only auto works: kernels choose their blocks themselves") {
        $0.attention.block != .auto
    }
]

/// A key with a value that nothing implements yet.
private struct MissingFeature: Sendable {
    let key: String
    /// What works, and why the rest does not.
    let reason: String
    let isAsked: @Sendable (RunConfig) -> Bool

    init(_ key: String, _ reason: String, isAsked: @escaping @Sendable (RunConfig) -> Bool) {
        self.key = key
        self.reason = reason
        self.isAsked = isAsked
    }
}

extension RunConfig {
    /// Throws `.config` for the first key whose feature does not exist yet.
    func refuseMissingFeatures() throws {
        guard let feature = missingFeatures.first(where: { $0.isAsked(self) }) else { return }
        throw configError(place(of: feature.key) ?? .made, "\(feature.key): \(feature.reason)")
    }
}
