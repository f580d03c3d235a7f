import TensorCore

/// Where a part of a config was written: `run.yaml:12`, or `--set data.batch=4`.
public struct ConfigPlace: Sendable, Hashable, CustomStringConvertible {
    /// The name of the file, or the whole of an override.
    public var source: String
    /// The line, counted from 1; nil where the source has no lines.
    public var line: Int?

    public init(source: String, line: Int? = nil) {
        self.source = source
        self.line = line
    }

    public var description: String { line.map { "\(source):\($0)" } ?? source }
}

/// A config as it was written: scalars are still text, and every part knows its place.
///
/// What a scalar means is decided by who reads it (`ConfigSection`), not by YAML's rules: `no` is a text where a text is
/// wanted and false where a switch is wanted. Equality looks at the content and not at the places.
public struct ConfigTree: Sendable {
    public enum Content: Sendable, Hashable {
        /// Nothing after the colon, `~` or `null`.
        case null
        /// Text; quoted text is never a number, a switch or `none`.
        case scalar(String, isQuoted: Bool)
        case sequence([ConfigTree])
        /// In the order they were written; every key once.
        case mapping([Entry])
    }

    /// One `key: value`.
    public struct Entry: Sendable, Hashable {
        public var key: String
        public var value: ConfigTree

        public init(_ key: String, _ value: ConfigTree) {
            self.key = key
            self.value = value
        }
    }

    public var content: Content
    /// Where the value's key was written, or the value where it has no key.
    public var place: ConfigPlace

    public init(_ content: Content, place: ConfigPlace) {
        self.content = content
        self.place = place
    }

    /// The entries of a mapping; none for null; nil for anything else.
    public var entries: [Entry]? {
        switch content {
        case .mapping(let entries): entries
        case .null: []
        case .scalar, .sequence: nil
        }
    }

    /// The value of a key of a mapping.
    public subscript(key: String) -> ConfigTree? {
        entries?.first { $0.key == key }?.value
    }

    /// This tree where it says something, and `base` where it does not; mappings are joined key by key.
    ///
    /// A joined mapping keeps the place of the base, so that a missing key is reported in the file and not in an override.
    public func over(_ base: ConfigTree) -> ConfigTree {
        guard case .mapping(var joined) = base.content, let mine = entries else { return self }
        for entry in mine {
            if let index = joined.firstIndex(where: { $0.key == entry.key }) {
                joined[index].value = entry.value.over(joined[index].value)
            } else {
                joined.append(entry)
            }
        }
        return ConfigTree(.mapping(joined), place: base.place)
    }

    /// The place of every value by its dotted key: `optimizer.rate`.
    func places(under prefix: String = "") -> [String: ConfigPlace] {
        guard let entries, !entries.isEmpty else { return [:] }
        var places: [String: ConfigPlace] = [:]
        for entry in entries {
            let key = prefix + entry.key
            places[key] = entry.value.place
            places.merge(entry.value.places(under: key + ".")) { first, _ in first }
        }
        return places
    }
}

extension ConfigTree: Hashable {
    public static func == (a: ConfigTree, b: ConfigTree) -> Bool { a.content == b.content }
    public func hash(into hasher: inout Hasher) { hasher.combine(content) }
}

/// A config error with the place at its head.
func configError(_ place: ConfigPlace, _ message: String, tried: [String] = []) -> RingZooError {
    RingZooError(.config, "\(place): \(message)", tried: tried)
}
