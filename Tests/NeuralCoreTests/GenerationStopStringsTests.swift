import NeuralCore
import TensorCore
import Testing

/// Random numbers that are the same in every run.
private struct KeyedGenerator: RandomNumberGenerator {
    let key: RandomKey
    private var count = 0

    init(key: RandomKey) { self.key = key }

    mutating func next() -> UInt64 {
        count += 1
        return key.derived(count).value
    }
}

@Suite struct GenerationStopStringsTests {
    /// The definition: the first place where a stop text is complete, and the longest one there.
    private func expected(_ text: String, _ stops: [String]) -> (text: String, found: String?) {
        let bytes = Array(text.utf8)
        for end in bytes.indices {
            let complete = stops.filter { bytes[...end].suffix($0.utf8.count).elementsEqual($0.utf8) }
            if let stop = complete.max(by: { $0.utf8.count < $1.utf8.count }) {
                return (String(decoding: bytes[..<(end + 1 - stop.utf8.count)], as: UTF8.self), stop)
            }
        }
        return (text, nil)
    }

    private func run(_ pieces: [String], _ stops: [String]) throws -> (text: String, found: String?) {
        var scanner = try StopStrings(stops)
        var text = ""
        for piece in pieces {
            let (new, found) = scanner.append(piece)
            text += new
            if let found { return (text, found) }
        }
        return (text + scanner.finish(), nil)
    }

    private static let alphabet: [Unicode.Scalar] = ["a", "b", "\n", "é", "è", "😀", "\u{301}"]

    /// Random texts over few letters, so that stop texts and their beginnings are everywhere, in random pieces.
    @Test func resultDoesNotDependOnWhereTheTextIsCut() throws {
        var random = KeyedGenerator(key: RandomKey(seed: 1))
        var foundSome = 0
        for _ in 0..<3000 {
            func word(_ count: ClosedRange<Int>) -> String {
                var text = String.UnicodeScalarView()
                for _ in 0..<Int.random(in: count, using: &random) {
                    text.append(Self.alphabet.randomElement(using: &random)!)
                }
                return String(text)
            }
            let stops = (0..<Int.random(in: 0...3, using: &random)).map { _ in word(1...4) }
            let pieces = (0..<Int.random(in: 0...12, using: &random)).map { _ in word(0...3) }
            let want = expected(pieces.joined(), stops)
            let got = try run(pieces, stops)
            #expect(got.text.utf8.elementsEqual(want.text.utf8) && got.found == want.found, "\(pieces) \(stops)")
            foundSome += want.found == nil ? 0 : 1
        }
        #expect(foundSome > 300)
    }

    @Test func stopTextAcrossPiecesIsNeverShown() throws {
        var scanner = try StopStrings(["\nUser:", "###"])
        var shown: [String] = []
        for piece in ["Hello.", "\n", "Us", "ually #", "# so", "\nUse"] { shown.append(scanner.append(piece).text) }
        #expect(shown == ["Hello.", "", "", "\nUsually ", "## so", ""])
        let (text, found) = scanner.append("r: more")
        #expect(text == "" && found == "\nUser:")
        #expect(scanner.finish() == "")
    }

    @Test func whatIsHeldBackComesAtTheEnd() throws {
        var scanner = try StopStrings(["abc"])
        #expect(scanner.append("xab").text == "x")
        #expect(scanner.finish() == "ab")
        var none = try StopStrings([])
        #expect(none.append("abc").text == "abc")
    }

    @Test func emptyStopTextIsRefused() {
        let error = #expect(throws: RingZooError.self) { try StopStrings(["a", ""]) }
        #expect(error?.code == .usage)
    }
}
