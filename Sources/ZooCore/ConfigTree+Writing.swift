extension ConfigTree {
    /// A text; quoted in YAML where it would read as something else without.
    public static func text(_ text: String) -> ConfigTree {
        ConfigTree(.scalar(text, isQuoted: !isSafelyPlain(text) || hasMeaning(text)), place: .made)
    }

    /// A whole number.
    public static func integer(_ value: some BinaryInteger) -> ConfigTree { plain(String(value)) }

    /// A number; the digits read back as the same float64.
    public static func integers(_ values: [Int]) -> ConfigTree {
        ConfigTree(.sequence(values.map { .integer($0) }), place: .made)
    }

    public static func number(_ value: Double) -> ConfigTree { plain(value.description) }

    /// `true` or `false`.
    public static func flag(_ value: Bool) -> ConfigTree { plain(value ? "true" : "false") }

    /// A bare word with a meaning of its own: `none`, `auto`.
    public static func word(_ word: String) -> ConfigTree { plain(word) }

    /// A mapping in this order.
    public static func mapping(_ entries: [(String, ConfigTree)]) -> ConfigTree {
        ConfigTree(.mapping(entries.map { Entry($0.0, $0.1) }), place: .made)
    }

    private static func plain(_ text: String) -> ConfigTree {
        ConfigTree(.scalar(text, isQuoted: false), place: .made)
    }

    /// The tree as YAML; reading it gives an equal tree.
    public var yaml: String {
        var lines: [String] = []
        write(into: &lines, indent: "")
        return lines.joined(separator: "\n") + "\n"
    }

    private func write(into lines: inout [String], indent: String) {
        switch content {
        case .null, .scalar: lines.append(indent + inline)
        case .sequence(let items):
            if items.isEmpty { lines.append(indent + inline) }
            for item in items { item.write(into: &lines, after: "\(indent)-", indent: indent) }
        case .mapping(let entries):
            if entries.isEmpty { lines.append(indent + inline) }
            for entry in entries {
                let key = isSafelyPlain(entry.key) ? entry.key : quoted(entry.key)
                entry.value.write(into: &lines, after: "\(indent)\(key):", indent: indent)
            }
        }
    }

    private func write(into lines: inout [String], after head: String, indent: String) {
        switch content {
        case .sequence(let items) where !items.isEmpty:
            lines.append(head)
            write(into: &lines, indent: indent + "  ")
        case .mapping(let entries) where !entries.isEmpty:
            lines.append(head)
            write(into: &lines, indent: indent + "  ")
        default: lines.append("\(head) \(inline)")
        }
    }

    private var inline: String {
        switch content {
        case .null: "null"
        case .sequence: "[]"
        case .mapping: "{}"
        case .scalar(let text, let isQuoted): isQuoted ? quoted(text) : text
        }
    }
}

extension ConfigPlace {
    /// The place of values that no one wrote.
    static let made = ConfigPlace(source: "(made by the program)")
}

/// Whether YAML reads these letters back as they are, without quotes, wherever they stand.
private func isSafelyPlain(_ text: String) -> Bool {
    guard let first = text.unicodeScalars.first, isWordLetter(first) || "/._".unicodeScalars.contains(first) else {
        return false
    }
    return text.unicodeScalars.allSatisfy { isWordLetter($0) || "/._-+".unicodeScalars.contains($0) }
}

private func isWordLetter(_ scalar: Unicode.Scalar) -> Bool {
    scalar.isASCII && (scalar.properties.isAlphabetic || ("0"..."9").contains(scalar))
}

/// Whether a plain scalar of these letters could be read as something other than text.
private func hasMeaning(_ text: String) -> Bool {
    let words = ["null", "none", "auto", "true", "false", "yes", "no", "on", "off", "y", "n"]
    return words.contains(text.lowercased()) || parseNumber(text) != nil
}

private func quoted(_ text: String) -> String {
    var result = "\""
    for scalar in text.unicodeScalars {
        switch scalar {
        case "\"": result += "\\\""
        case "\\": result += "\\\\"
        case "\n": result += "\\n"
        case "\t": result += "\\t"
        case "\r": result += "\\r"
        case _
        where scalar.value < 0x20 || (0x7F...0x9F).contains(scalar.value) || scalar.value == 0xFEFF
            || (0x2028...0x2029).contains(scalar.value) || (0xFFFE...0xFFFF).contains(scalar.value):
            let digits = String(scalar.value, radix: 16, uppercase: true)
            result += "\\u" + String(repeating: "0", count: 4 - digits.count) + digits
        default: result.unicodeScalars.append(scalar)
        }
    }
    return result + "\""
}
