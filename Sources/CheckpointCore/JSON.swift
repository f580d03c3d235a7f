/// A JSON value (RFC 8259), parsed strictly: for headers that come from outside.
///
/// Foundation's decoder keeps the last of two equal keys without a word; a header with two entries of one name must
/// be refused.
enum JSON: Equatable {
    case object([Member])
    case array([JSON])
    case string(String)
    case integer(Int)
    /// A number with a fraction or exponent, or out of the range of Int, as it was written.
    case number(String)
    case bool(Bool)
    case null

    struct Member: Equatable {
        var key: String
        var value: JSON
    }

    /// Why a text is not JSON, or not what was expected, and at which byte.
    struct Fault: Error, CustomStringConvertible {
        var message: String
        var offset: Int
        var description: String { "\(message) at byte \(offset)" }
    }

    init(parsing bytes: UnsafeRawBufferPointer) throws(Fault) {
        var parser = Parser(bytes: bytes)
        self = try parser.document()
    }

    subscript(key: String) -> JSON? {
        guard case .object(let members) = self else { return nil }
        return members.first { $0.key == key }?.value
    }

    var members: [Member]? { if case .object(let members) = self { members } else { nil } }
    var elements: [JSON]? { if case .array(let elements) = self { elements } else { nil } }
    var text: String? { if case .string(let text) = self { text } else { nil } }
    var int: Int? { if case .integer(let value) = self { value } else { nil } }
    var ints: [Int]? {
        guard let elements else { return nil }
        let values = elements.compactMap(\.int)
        return values.count == elements.count ? values : nil
    }

    /// The text between quotes, escaped, quotes included.
    static func quoted(_ text: String) -> String {
        var out = "\""
        for scalar in text.unicodeScalars {
            switch scalar {
            case "\"": out += "\\\""
            case "\\": out += "\\\\"
            case "\n": out += "\\n"
            case "\r": out += "\\r"
            case "\t": out += "\\t"
            case _ where scalar.value < 0x20:
                out += "\\u00" + hexadecimal([UInt8(scalar.value)])
            default: out.unicodeScalars.append(scalar)
            }
        }
        return out + "\""
    }
}

private struct Parser {
    // Deep enough for every header there is, shallow enough for any stack.
    static let maximumDepth = 16

    let bytes: UnsafeRawBufferPointer
    var at = 0
    var depth = 0

    init(bytes: UnsafeRawBufferPointer) { self.bytes = bytes }

    var next: UInt8? { at < bytes.count ? bytes[at] : nil }

    func fault(_ message: String) -> JSON.Fault { JSON.Fault(message: message, offset: at) }

    mutating func skipSpace() {
        while let byte = next, byte == 0x20 || byte == 0x0a || byte == 0x0d || byte == 0x09 { at += 1 }
    }

    mutating func take(_ character: Unicode.Scalar) throws(JSON.Fault) {
        guard next == UInt8(ascii: character) else { throw fault("expected \(character)") }
        at += 1
    }

    mutating func takeIf(_ character: Unicode.Scalar) -> Bool {
        guard next == UInt8(ascii: character) else { return false }
        at += 1
        return true
    }

    mutating func document() throws(JSON.Fault) -> JSON {
        let value = try value()
        skipSpace()
        if next != nil { throw fault("something follows the end") }
        return value
    }

    mutating func value() throws(JSON.Fault) -> JSON {
        skipSpace()
        guard let byte = next else { throw fault("the text ends too early") }
        switch byte {
        case UInt8(ascii: "{"): return try nested { parser throws(JSON.Fault) in try parser.object() }
        case UInt8(ascii: "["): return try nested { parser throws(JSON.Fault) in try parser.array() }
        case UInt8(ascii: "\""): return .string(try string())
        case UInt8(ascii: "t"): return try word("true", .bool(true))
        case UInt8(ascii: "f"): return try word("false", .bool(false))
        case UInt8(ascii: "n"): return try word("null", .null)
        default: return try number()
        }
    }

    mutating func nested(_ body: (inout Parser) throws(JSON.Fault) -> JSON) throws(JSON.Fault) -> JSON {
        guard depth < Self.maximumDepth else { throw fault("nested more than \(Self.maximumDepth) deep") }
        depth += 1
        let value = try body(&self)
        depth -= 1
        return value
    }

    mutating func object() throws(JSON.Fault) -> JSON {
        try take("{")
        var members: [JSON.Member] = []
        var keys: Set<String> = []
        skipSpace()
        if takeIf("}") { return .object(members) }
        repeat {
            skipSpace()
            let key = try string()
            guard keys.insert(key).inserted else { throw fault("the key \(JSON.quoted(key)) stands there twice") }
            skipSpace()
            try take(":")
            members.append(JSON.Member(key: key, value: try value()))
            skipSpace()
        } while takeIf(",")
        try take("}")
        return .object(members)
    }

    mutating func array() throws(JSON.Fault) -> JSON {
        try take("[")
        var elements: [JSON] = []
        skipSpace()
        if takeIf("]") { return .array(elements) }
        repeat {
            elements.append(try value())
            skipSpace()
        } while takeIf(",")
        try take("]")
        return .array(elements)
    }

    mutating func word(_ word: String, _ value: JSON) throws(JSON.Fault) -> JSON {
        for byte in word.utf8 {
            guard next == byte else { throw fault("not a JSON value") }
            at += 1
        }
        return value
    }

    mutating func number() throws(JSON.Fault) -> JSON {
        let start = at
        _ = takeIf("-")
        let leading = next
        guard digits() > 0 else {
            at = start
            throw fault("not a JSON value")
        }
        if leading == UInt8(ascii: "0"), at - start > (bytes[start] == UInt8(ascii: "-") ? 2 : 1) {
            throw fault("a number begins with 0")
        }
        var isInteger = true
        if takeIf(".") {
            isInteger = false
            guard digits() > 0 else { throw fault("a number ends in a point") }
        }
        if takeIf("e") || takeIf("E") {
            isInteger = false
            if !takeIf("+") { _ = takeIf("-") }
            guard digits() > 0 else { throw fault("an exponent has no digits") }
        }
        let text = String(decoding: bytes[start..<at], as: UTF8.self)
        if isInteger, let value = Int(text) { return .integer(value) }
        return .number(text)
    }

    mutating func digits() -> Int {
        let start = at
        while let byte = next, byte >= 0x30, byte <= 0x39 { at += 1 }
        return at - start
    }

    mutating func string() throws(JSON.Fault) -> String {
        try take("\"")
        var out: [UInt8] = []
        while true {
            let start = at
            while let byte = next, byte != UInt8(ascii: "\""), byte != UInt8(ascii: "\\"), byte >= 0x20 { at += 1 }
            out += bytes[start..<at]
            guard let byte = next else { throw fault("a string does not end") }
            if byte < 0x20 { throw fault("a control character stands in a string") }
            at += 1
            if byte == UInt8(ascii: "\"") { break }
            try escape(into: &out)
        }
        guard let text = String(validating: out, as: UTF8.self) else { throw fault("a string is not UTF-8") }
        return text
    }

    mutating func escape(into out: inout [UInt8]) throws(JSON.Fault) {
        guard let byte = next else { throw fault("a string does not end") }
        at += 1
        switch byte {
        case UInt8(ascii: "\""), UInt8(ascii: "\\"), UInt8(ascii: "/"): out.append(byte)
        case UInt8(ascii: "b"): out.append(0x08)
        case UInt8(ascii: "f"): out.append(0x0c)
        case UInt8(ascii: "n"): out.append(0x0a)
        case UInt8(ascii: "r"): out.append(0x0d)
        case UInt8(ascii: "t"): out.append(0x09)
        case UInt8(ascii: "u"):
            var code = try fourDigits()
            if code >= 0xd800, code < 0xdc00 {
                guard takeIf("\\"), takeIf("u") else { throw fault("half of a surrogate pair") }
                let low = try fourDigits()
                guard low >= 0xdc00, low < 0xe000 else { throw fault("half of a surrogate pair") }
                code = 0x10000 + (code - 0xd800) << 10 + (low - 0xdc00)
            }
            guard let scalar = Unicode.Scalar(code) else { throw fault("half of a surrogate pair") }
            out += Array(String(Character(scalar)).utf8)
        default: throw fault("an unknown escape")
        }
    }

    mutating func fourDigits() throws(JSON.Fault) -> UInt32 {
        guard bytes.count - at >= 4 else { throw fault("a string does not end") }
        var code: UInt32 = 0
        for _ in 0..<4 {
            guard let digit = Character(Unicode.Scalar(bytes[at])).hexDigitValue, bytes[at] < 0x80 else {
                throw fault("an escape wants four hexadecimal digits")
            }
            code = code << 4 | UInt32(digit)
            at += 1
        }
        return code
    }
}
