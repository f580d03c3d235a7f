import Testing

@testable import CheckpointCore

@Suite struct JSONTests {
    private func parse(_ text: String) throws -> JSON { try Array(text.utf8).withUnsafeBytes { try JSON(parsing: $0) } }

    @Test func valuesAreReadExactly() throws {
        let json = try parse(
            #" {"a" : [1, -20, 0, 1.5, 1e3, 99999999999999999999, true, false, null], "b\n\"\\\/\u00e9\ud83d\ude00": "ä", "c": {}, "d": []} "#
        )
        #expect(
            json["a"]
                == .array([
                    .integer(1), .integer(-20), .integer(0), .number("1.5"), .number("1e3"),
                    .number("99999999999999999999"), .bool(true), .bool(false), .null,
                ]))
        #expect(json["b\n\"\\/é😀"] == .string("ä"))
        #expect(json["c"] == .object([]) && json["d"] == .array([]))
    }

    @Test(arguments: [
        "", "{", "[1", "[1,]", "{\"a\"}", "{\"a\":}", "{\"a\":1,}", "{a:1}", "01", "-", "1.", "1e", "+1", ".5", "tru",
        "\"", "\"\\x\"", "\"\\u12\"", "\"\\ud800\"", "\"\\ud800\\u0041\"", "\"\\udc00\"", "\"\u{1}\"", "1 2", "nan",
        "{\"a\":1,\"a\":2}", "{\"a\":1,\"\\u0061\":2}", String(repeating: "[", count: 100_000),
    ])
    func malformedTextIsRefused(_ text: String) {
        #expect(throws: JSON.Fault.self) { try parse(text) }
    }

    @Test func stringsThatAreNotUTF8AreRefused() {
        for bytes: [UInt8] in [[0x22, 0xff, 0x22], [0x22, 0xc0, 0x80, 0x22], [0x22, 0xed, 0xa0, 0x80, 0x22]] {
            #expect(throws: JSON.Fault.self) { try bytes.withUnsafeBytes { try JSON(parsing: $0) } }
        }
    }

    @Test func quotingAndParsingGiveTheTextAgain() throws {
        let text = String(String.UnicodeScalarView((0..<0x180).compactMap(Unicode.Scalar.init))) + "😀\u{2028}"
        #expect(try parse(JSON.quoted(text)) == .string(text))
    }
}
