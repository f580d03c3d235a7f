import TensorCore

/// A one-to-one map between the tensor names of another program and ours, given by rules such as
/// `model.layers.{n}.self_attn.q_proj.weight` and `layers.{n}.attention.q_proj`.
///
/// A placeholder in braces stands for a decimal number without needless zeros. Every name has at most one image in
/// either direction, and going there and back gives the name again; rules that would break this are refused.
public struct NameMap: Sendable {
    private struct Rule {
        var theirs: Template
        var ours: Template
    }

    private let rules: [Rule]

    /// Errors: `usage` for a malformed rule, or two rules that can match the same name.
    public init(_ rules: [(theirs: String, ours: String)]) throws {
        var parsed: [Rule] = []
        for rule in rules {
            let theirs = try Template(rule.theirs)
            let ours = try Template(rule.ours)
            guard theirs.placeholders.sorted() == ours.placeholders.sorted() else {
                throw RingZooError(.usage, "name map: \(rule.theirs) and \(rule.ours) have different placeholders")
            }
            for other in parsed {
                for (a, b) in [(other.theirs, theirs), (other.ours, ours)] where a.overlaps(b) {
                    throw RingZooError(.usage, "name map: \(a.text) and \(b.text) can be the same name")
                }
            }
            parsed.append(Rule(theirs: theirs, ours: ours))
        }
        self.rules = parsed
    }

    /// Our name for one of theirs; nil where no rule matches.
    public func ours(_ theirs: String) -> String? {
        for rule in rules { if let numbers = rule.theirs.match(theirs) { return rule.ours.fill(numbers) } }
        return nil
    }

    /// Their name for one of ours; nil where no rule matches.
    public func theirs(_ ours: String) -> String? {
        for rule in rules { if let numbers = rule.ours.match(ours) { return rule.theirs.fill(numbers) } }
        return nil
    }

    /// A name with holes for numbers.
    private struct Template {
        enum Part: Equatable {
            case byte(UInt8)
            /// A run of digits that stands there literally.
            case number(String)
            case placeholder(String)
        }

        let text: String
        let parts: [Part]
        let placeholders: [String]

        init(_ text: String) throws {
            func fault(_ what: String) -> RingZooError { RingZooError(.usage, "name map: \(text): \(what)") }
            var parts: [Part] = []
            var placeholders: [String] = []
            var rest = text.utf8[...]
            while let byte = rest.first {
                if byte == UInt8(ascii: "{") {
                    guard let end = rest.firstIndex(of: UInt8(ascii: "}")) else { throw fault("a brace is not closed") }
                    let name = String(decoding: rest[rest.index(after: rest.startIndex)..<end], as: UTF8.self)
                    guard !name.isEmpty, !placeholders.contains(name) else {
                        throw fault("the placeholder {\(name)} has no name, or is there twice")
                    }
                    if case .placeholder? = parts.last { throw fault("two placeholders touch each other") }
                    if case .number? = parts.last { throw fault("a digit touches a placeholder") }
                    placeholders.append(name)
                    parts.append(.placeholder(name))
                    rest = rest[rest.index(after: end)...]
                } else if Self.isDigit(byte) {
                    if case .placeholder? = parts.last { throw fault("a digit touches a placeholder") }
                    let digits = rest.prefix(while: Self.isDigit)
                    parts.append(.number(String(decoding: digits, as: UTF8.self)))
                    rest = rest[digits.endIndex...]
                } else {
                    parts.append(.byte(byte))
                    rest = rest.dropFirst()
                }
            }
            guard !parts.isEmpty else { throw fault("an empty name") }
            self.text = text
            self.parts = parts
            self.placeholders = placeholders
        }

        private static func isDigit(_ byte: UInt8) -> Bool { byte >= 0x30 && byte <= 0x39 }

        private static func isCanonical(_ digits: String) -> Bool { digits == "0" || !digits.hasPrefix("0") }

        /// The numbers of a name that fits, by placeholder. Runs of digits are taken whole, so there is only one way
        /// to fit.
        func match(_ name: String) -> [String: String]? {
            var numbers: [String: String] = [:]
            var rest = name.utf8[...]
            for part in parts {
                switch part {
                case .byte(let byte):
                    guard rest.first == byte else { return nil }
                    rest = rest.dropFirst()
                case .number(let wanted):
                    let digits = rest.prefix(while: Self.isDigit)
                    guard digits.elementsEqual(wanted.utf8) else { return nil }
                    rest = rest[digits.endIndex...]
                case .placeholder(let name):
                    let digits = rest.prefix(while: Self.isDigit)
                    let number = String(decoding: digits, as: UTF8.self)
                    guard !number.isEmpty, Self.isCanonical(number) else { return nil }
                    numbers[name] = number
                    rest = rest[digits.endIndex...]
                }
            }
            return rest.isEmpty ? numbers : nil
        }

        func fill(_ numbers: [String: String]) -> String {
            var bytes: [UInt8] = []
            for part in parts {
                switch part {
                case .byte(let byte): bytes.append(byte)
                case .number(let digits): bytes += Array(digits.utf8)
                case .placeholder(let name): bytes += Array((numbers[name] ?? "").utf8)
                }
            }
            return String(decoding: bytes, as: UTF8.self)
        }

        /// True when some name fits both.
        func overlaps(_ other: Template) -> Bool {
            guard parts.count == other.parts.count else { return false }
            return zip(parts, other.parts).allSatisfy { pair in
                switch pair {
                case (.byte(let a), .byte(let b)): a == b
                case (.number(let a), .number(let b)): a == b
                case (.placeholder, .placeholder): true
                case (.placeholder, .number(let digits)), (.number(let digits), .placeholder): Self.isCanonical(digits)
                default: false
                }
            }
        }
    }
}
