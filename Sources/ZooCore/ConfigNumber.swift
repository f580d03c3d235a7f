/// The float64 a plain scalar stands for: `3`, `-2.5`, `.5`, `1e-4`, `1_000`; nil for any other text, infinities included.
///
/// Written out because YAML 1.1 reads `3e-4` as text, and Swift reads `nan` and `0x10` as numbers.
func parseNumber(_ text: String) -> Double? {
    guard let digits = withoutGroups(text), digits.utf8.contains(where: isDigit),
        digits.utf8.allSatisfy({ isDigit($0) || "+-.eE".utf8.contains($0) }), !"eE".contains(digits.first!)
    else { return nil }
    guard let value = Double(digits), value.isFinite else { return nil }
    return value
}

/// The whole number a plain scalar stands for; `1_000` and `1e6` are whole numbers, `1.0` and what does not fit are not.
func parseWholeNumber<Integer: FixedWidthInteger>(_ text: String, as type: Integer.Type = Int.self) -> Integer? {
    guard let digits = withoutGroups(text) else { return nil }
    if let value = Integer(digits) { return value }
    // Every whole number up to 2^53 is a float64, so this is exact.
    guard digits.utf8.contains(where: { "eE".utf8.contains($0) }), let value = parseNumber(digits), abs(value) <= 0x1p53
    else { return nil }
    return Integer(exactly: value)
}

/// The bytes of `4096`, `512MiB`, `1.5 GiB` or `2GB`; nil for any other text and for less than one byte.
func parseByteCount(_ text: String) -> Int? {
    if let count = parseWholeNumber(text) { return count > 0 ? count : nil }
    guard let unit = byteUnits.first(where: { text.hasSuffix($0.suffix) }) else { return nil }
    var number = text.dropLast(unit.suffix.count)
    while number.last == " " { number.removeLast() }
    guard let value = parseNumber(String(number)), value * unit.bytes >= 1, value * unit.bytes < 0x1p62 else {
        return nil
    }
    return Int((value * unit.bytes).rounded())
}

/// The shorter suffixes are ends of the longer ones and come last.
private let byteUnits: [(suffix: String, bytes: Double)] = [
    ("KiB", 0x1p10), ("MiB", 0x1p20), ("GiB", 0x1p30), ("TiB", 0x1p40), ("KB", 1e3), ("MB", 1e6), ("GB", 1e9),
    ("TB", 1e12),
    ("B", 1),
]

/// The text without `_` between digits; nil where a `_` stands anywhere else.
private func withoutGroups(_ text: String) -> String? {
    let letters = Array(text.utf8)
    for (index, letter) in letters.enumerated() where letter == UInt8(ascii: "_") {
        guard index > 0, index + 1 < letters.count, isDigit(letters[index - 1]), isDigit(letters[index + 1]) else {
            return nil
        }
    }
    return text.filter { $0 != "_" }
}

private func isDigit(_ letter: UInt8) -> Bool { (UInt8(ascii: "0")...UInt8(ascii: "9")).contains(letter) }
