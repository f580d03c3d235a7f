import TensorCore

/// Reads one section of a config strictly: typed values, defaults, ranges, and no key that nobody asked for.
///
/// Whoever owns a section asks for each of its keys and then calls `finish()`, which throws for the keys that are left.
/// Every error is `.config`, says where the value was written, and what would work.
///
/// ```swift
/// var section = try tree.section("optimizer")
/// let rate = try section.number("rate", default: 3e-4, .above(0))
/// try section.finish()
/// ```
public struct ConfigSection: Sendable {
    /// The dotted name, for messages; empty for the whole config.
    public let name: String
    /// Where the section begins.
    public let place: ConfigPlace
    private let entries: [ConfigTree.Entry]
    private var known: Set<String> = []

    /// Throws where the tree is not a mapping; nothing at all (`data:`) is an empty section.
    /// - Parameter readBefore: keys that somebody else has read from the section already, for messages about unknown ones.
    public init(_ tree: ConfigTree, name: String, readBefore: Set<String> = []) throws {
        guard let entries = tree.entries else {
            let what = name.isEmpty ? "the config" : name
            throw configError(tree.place, "\(what) must be a section of keys, not \(tree.written)")
        }
        self.name = name
        self.place = tree.place
        self.entries = entries
        known = readBefore
    }

    /// The tree of a key, as it was written; nil where the key is not there. The key counts as known from then on.
    public mutating func tree(_ key: String) -> ConfigTree? {
        known.insert(key)
        return entries.first { $0.key == key }?.value
    }

    /// A section inside this one; empty where the key is not there.
    public mutating func section(_ key: String) throws -> ConfigSection {
        try ConfigSection(tree(key) ?? ConfigTree(.null, place: place), name: dotted(key))
    }

    /// All keys that were not asked for, as a mapping, which then count as known: for an owner who is not here yet.
    public mutating func rest() -> ConfigTree {
        let left = entries.filter { !known.contains($0.key) }
        known.formUnion(left.map(\.key))
        return ConfigTree(.mapping(left), place: place)
    }

    /// Throws where the section has keys that nobody asked for, naming the nearest known key.
    public func finish() throws {
        let unknown = entries.filter { !known.contains($0.key) }
        guard let first = unknown.first else { return }
        let others = unknown.dropFirst().map { "\($0.value.place): unknown key \(dotted($0.key)) too" }
        guard let nearest = nearestName(to: first.key, among: known) else {
            throw configError(first.value.place, "unknown key \(dotted(first.key)); there are no keys here")
        }
        let keys = ([nearest] + known.subtracting([nearest]).sorted()).joined(separator: ", ")
        throw configError(
            first.value.place, "unknown key \(dotted(first.key)); did you mean \(nearest)?",
            tried: others + ["valid keys: \(keys)"])
    }

    // MARK: text

    /// Any scalar as text, `no` and `007` included; a key that is not there throws.
    public mutating func text(_ key: String) throws -> String {
        try required(key, try text(key))
    }

    public mutating func text(_ key: String, default standard: String) throws -> String {
        try text(key) ?? standard
    }

    /// nil where the key is not there, empty or `none`.
    public mutating func optionalText(_ key: String) throws -> String? {
        isNone(key) ? nil : try text(key)
    }

    private mutating func text(_ key: String) throws -> String? {
        try value(key, "a text") { text, _ in text }
    }

    /// A list of texts; one text stands for a list of one. Empty where the key is not there.
    public mutating func texts(_ key: String) throws -> [String] {
        guard let tree = tree(key) else { return [] }
        guard case .sequence(let items) = tree.content else { return try optionalText(key).map { [$0] } ?? [] }
        return try items.map { item in
            guard case .scalar(let text, _) = item.content else {
                throw configError(item.place, "\(dotted(key)) has \(item.written) in it; a list of texts would work")
            }
            return text
        }
    }

    // MARK: numbers

    /// A whole number: `8`, `1_000`, `1e6`; a key that is not there throws.
    public mutating func integer(_ key: String, _ range: ConfigRange<Int> = .any) throws -> Int {
        try required(key, try integer(key, range))
    }

    public mutating func integer(
        _ key: String, default standard: Int, _ range: ConfigRange<Int> = .any
    ) throws -> Int {
        try integer(key, range) ?? standard
    }

    /// nil where the key is not there, empty or `none`.
    public mutating func optionalInteger(_ key: String, _ range: ConfigRange<Int> = .any) throws -> Int? {
        isNone(key) ? nil : try integer(key, range)
    }

    private mutating func integer(_ key: String, _ range: ConfigRange<Int>) throws -> Int? {
        try value(key, "a whole number\(range.words)") { text, isQuoted in
            isQuoted ? nil : parseWholeNumber(text).flatMap { range.contains($0) ? $0 : nil }
        }
    }

    /// A list of so many whole numbers; nil where the key is not there, empty or `none`.
    public mutating func optionalIntegers(
        _ key: String, count: Int, _ range: ConfigRange<Int> = .any
    ) throws -> [Int]? {
        guard let tree = tree(key), tree.content != .null, !isNone(key) else { return nil }
        let wanted = "a list of \(count) whole number\(count == 1 ? "" : "s")\(range.words) would work"
        guard case .sequence(let items) = tree.content else {
            throw configError(tree.place, "\(dotted(key)) is \(tree.written); \(wanted)")
        }
        let numbers = try items.map { item -> Int in
            guard case .scalar(let text, false) = item.content, let number = parseWholeNumber(text),
                range.contains(number)
            else { throw configError(item.place, "\(dotted(key)) has \(item.written) in it; \(wanted)") }
            return number
        }
        if numbers.count != count {
            throw configError(
                tree.place, "\(dotted(key)) has \(numbers.count) number\(numbers.count == 1 ? "" : "s"); \(wanted)")
        }
        return numbers
    }

    /// A whole number from 0 to 2^64 - 1.
    public mutating func unsigned(_ key: String, default standard: UInt64) throws -> UInt64 {
        try value(key, "a whole number from 0 to \(UInt64.max)") { text, isQuoted in
            isQuoted ? nil : parseWholeNumber(text, as: UInt64.self)
        } ?? standard
    }

    /// A float64: `0.1`, `3e-4`, `1`.
    public mutating func number(
        _ key: String, default standard: Double, _ range: ConfigRange<Double> = .any
    ) throws -> Double {
        try number(key, range) ?? standard
    }

    /// nil where the key is not there, empty or `none`.
    public mutating func optionalNumber(_ key: String, _ range: ConfigRange<Double> = .any) throws -> Double? {
        isNone(key) ? nil : try number(key, range)
    }

    private mutating func number(_ key: String, _ range: ConfigRange<Double>) throws -> Double? {
        try value(key, "a number\(range.words)") { text, isQuoted in
            isQuoted ? nil : parseNumber(text).flatMap { range.contains($0) ? $0 : nil }
        }
    }

    /// A number of bytes: `4096`, `512MiB`, `1.5GiB`, `2GB`; nil where the key is not there, empty or `none`.
    public mutating func optionalByteCount(_ key: String) throws -> Int? {
        if isNone(key) { return nil }
        return try value(key, "none or a number of bytes such as 536870912 or 512MiB") { text, _ in parseByteCount(text)
        }
    }

    // MARK: words

    /// `true` or `false`; YAML 1.1's yes, no, on and off mean the same.
    public mutating func flag(_ key: String, default standard: Bool) throws -> Bool {
        try value(key, "true or false") { text, isQuoted in
            switch text.lowercased() {
            case _ where isQuoted: nil
            case "true", "yes", "on": true
            case "false", "no", "off": false
            default: nil
            }
        } ?? standard
    }

    /// One of an enum's raw values.
    public mutating func choice<Choice: RawRepresentable & CaseIterable & Sendable>(
        _ key: String, default standard: Choice
    ) throws -> Choice where Choice.RawValue == String {
        let names = Choice.allCases.map(\.rawValue)
        guard let tree = tree(key), tree.content != .null else { return standard }
        guard case .scalar(let text, _) = tree.content, let choice = Choice(rawValue: text) else {
            var message = "\(dotted(key)) is \(tree.written); one of \(names.joined(separator: ", ")) would work"
            if case .scalar(let text, _) = tree.content, let nearest = nearestName(to: text, among: names) {
                message += "; did you mean \(nearest)?"
            }
            throw configError(tree.place, message)
        }
        return choice
    }

    /// A value with a syntax of its own; nil where the key is not there or empty.
    ///
    /// `parse` gets the text and whether it was quoted, and returns nil for what is not `wanted` ("a whole number").
    public mutating func value<Value>(
        _ key: String, _ wanted: String, parse: (_ text: String, _ isQuoted: Bool) -> Value?
    ) throws -> Value? {
        guard let tree = tree(key), tree.content != .null else { return nil }
        if case .scalar(let text, let isQuoted) = tree.content, let value = parse(text, isQuoted) { return value }
        throw configError(tree.place, "\(dotted(key)) is \(tree.written); \(wanted) would work")
    }

    /// Whether the value is the bare word `none`.
    private mutating func isNone(_ key: String) -> Bool {
        tree(key)?.content == .scalar("none", isQuoted: false)
    }

    private func required<Value>(_ key: String, _ value: Value?) throws -> Value {
        if let value { return value }
        // A misspelled key is the usual reason for a missing one.
        let unread = entries.filter { !known.contains($0.key) }
        let near = unread.first { editDistance(Array($0.key), Array(key)) <= max(1, key.count / 3) }
        let hints = near.map { ["\($0.value.place): did you mean \(key) by \($0.key)?"] } ?? []
        throw configError(place, "\(dotted(key)) is missing and has no default", tried: hints)
    }

    private func dotted(_ key: String) -> String { name.isEmpty ? key : "\(name).\(key)" }
}

/// The values a number may have.
public enum ConfigRange<Number: Comparable & Sendable>: Sendable {
    case any
    case atLeast(Number)
    case above(Number)
    /// Both ends included.
    case within(Number, Number)
    /// The second number excluded.
    case from(Number, below: Number)

    func contains(_ value: Number) -> Bool {
        switch self {
        case .any: true
        case .atLeast(let low): value >= low
        case .above(let low): value > low
        case .within(let low, let high): value >= low && value <= high
        case .from(let low, let high): value >= low && value < high
        }
    }

    var words: String {
        switch self {
        case .any: ""
        case .atLeast(let low): " of at least \(low)"
        case .above(let low): " above \(low)"
        case .within(let low, let high): " from \(low) to \(high)"
        case .from(let low, let high): " of at least \(low) and below \(high)"
        }
    }
}

extension ConfigTree {
    /// How messages show a value.
    var written: String {
        switch content {
        case .null: "empty"
        case .scalar(let text, _): "\"\(text)\""
        case .sequence: "a list"
        case .mapping: "a section"
        }
    }
}
