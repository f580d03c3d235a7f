import TensorCore

/// Names for things of one kind: models, backends, tokenizers.
///
/// A value, not a global: whoever builds a `Zoo` decides what is in it.
public struct Registry<Entry: Sendable>: Sendable {
    /// What the entries are, for messages: "model", "attention backend".
    public let kind: String
    private var entries: [String: Entry] = [:]

    public init(_ kind: String) { self.kind = kind }

    /// All names, in alphabetical order.
    public var names: [String] { entries.keys.sorted() }

    /// Adds an entry; throws `.config` where the name is taken, and lists what there is.
    public mutating func register(_ name: String, _ entry: Entry) throws {
        guard entries[name] == nil else {
            throw RingZooError(
                .config, "\(kind) \"\(name)\" is registered already",
                tried: ["registered: \(names.joined(separator: ", "))"])
        }
        entries[name] = entry
    }

    /// The entry of this name; throws `.config` where there is none, and lists what there is, the nearest name first.
    ///
    /// `place` is where the name was written, so that the message can point to it (`RunConfig.place(of:)`).
    public func entry(_ name: String, at place: ConfigPlace? = nil) throws -> Entry {
        if let entry = entries[name] { return entry }
        let prefix = place.map { "\($0): " } ?? ""
        guard let nearest = nearestName(to: name, among: names) else {
            throw RingZooError(.config, "\(prefix)no \(kind) \"\(name)\": none is registered")
        }
        let others = names.filter { $0 != nearest }
        throw RingZooError(
            .config, "\(prefix)no \(kind) \"\(name)\"; did you mean \(nearest)?",
            tried: ["registered: \(([nearest] + others).joined(separator: ", "))"])
    }
}
