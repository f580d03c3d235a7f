/// Cuts text into the words within which byte pairs are merged, as GPT-2 does.
///
/// The rule is the regular expression
/// `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`
/// (Radford et al. 2019, the published encoder), written out by hand. Letters and numbers are Unicode's general
/// categories L and N, white space is the property White_Space; the tables are those of the Swift standard library.
/// A byte that is not valid UTF-8 counts as "neither letter, number nor white space".
struct WordScanner {
    private let bytes: UnsafeBufferPointer<UInt8>
    private var index = 0

    init(_ bytes: UnsafeBufferPointer<UInt8>) { self.bytes = bytes }

    /// The range of the next word; nil at the end. The ranges cover every byte, in order.
    mutating func next() -> Range<Int>? {
        guard index < bytes.count else { return nil }
        let start = index
        index = wordEnd(from: start)
        return start..<index
    }

    private func wordEnd(from start: Int) -> Int {
        let apostrophe = UInt8(ascii: "'")
        let space = UInt8(ascii: " ")
        if bytes[start] == apostrophe, let length = contractionLength(at: start) { return start + length }
        let (first, firstLength) = characterClass(at: start)
        if first != .space { return runEnd(of: first, from: start + firstLength) }
        if bytes[start] == space, start + 1 < bytes.count {
            let (next, nextLength) = characterClass(at: start + 1)
            if next != .space { return runEnd(of: next, from: start + 1 + nextLength) }
        }
        return whiteSpaceEnd(from: start, firstLength: firstLength)
    }

    /// The length of `'s 't 're 've 'm 'll 'd` at an apostrophe, lower case only.
    private func contractionLength(at start: Int) -> Int? {
        guard start + 1 < bytes.count else { return nil }
        let next = bytes[start + 1]
        let afterNext: UInt8 = start + 2 < bytes.count ? bytes[start + 2] : 0
        switch (next, afterNext) {
        case (UInt8(ascii: "s"), _), (UInt8(ascii: "t"), _), (UInt8(ascii: "m"), _), (UInt8(ascii: "d"), _): return 2
        case (UInt8(ascii: "r"), UInt8(ascii: "e")), (UInt8(ascii: "v"), UInt8(ascii: "e")): return 3
        case (UInt8(ascii: "l"), UInt8(ascii: "l")): return 3
        default: return nil
        }
    }

    private func runEnd(of wanted: CharacterClass, from start: Int) -> Int {
        var end = start
        while end < bytes.count {
            let (found, length) = characterClass(at: end)
            guard found == wanted else { break }
            end += length
        }
        return end
    }

    /// `\s+(?!\S)|\s+`: a run before a word leaves its last character to that word, unless it has only one.
    private func whiteSpaceEnd(from start: Int, firstLength: Int) -> Int {
        var lastStart = start
        var end = start + firstLength
        while end < bytes.count {
            let (found, length) = characterClass(at: end)
            guard found == .space else { return lastStart > start ? lastStart : end }
            lastStart = end
            end += length
        }
        return end
    }

    @inline(__always)
    private func characterClass(at index: Int) -> (CharacterClass, Int) {
        let byte = bytes[index]
        if byte < 0x80 { return (CharacterClass(ascii: byte), 1) }
        let (found, length) = scalar(in: bytes, at: index)
        return (found.map(CharacterClass.init) ?? .other, length)
    }
}

enum CharacterClass {
    case letter, number, space, other

    @inline(__always)
    init(ascii byte: UInt8) {
        switch byte {
        case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"): self = .letter
        case UInt8(ascii: " "), 0x09...0x0D: self = .space
        case UInt8(ascii: "0")...UInt8(ascii: "9"): self = .number
        default: self = .other
        }
    }

    init(_ scalar: Unicode.Scalar) {
        switch scalar.properties.generalCategory {
        case .uppercaseLetter, .lowercaseLetter, .titlecaseLetter, .modifierLetter, .otherLetter: self = .letter
        case .decimalNumber, .letterNumber, .otherNumber: self = .number
        default: self = scalar.properties.isWhitespace ? .space : .other
        }
    }
}
