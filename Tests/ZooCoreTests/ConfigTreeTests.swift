import Foundation
import TensorCore
import Testing

@testable import ZooCore

/// The text of the error of a body that must throw a config error.
func configMessage(_ body: () throws -> some Any) -> String {
    do {
        _ = try body()
        return "no error"
    } catch let error as RingZooError {
        return error.code == .config ? error.description : "code \(error.code): \(error)"
    } catch { return "another error: \(error)" }
}

struct ConfigTreeTests {
    private func section(_ yaml: String) throws -> ConfigSection {
        try ConfigSection(ConfigTree(yaml: yaml, source: "run.yaml"), name: "")
    }

    @Test func everyKeyKnowsItsLine() throws {
        let tree = try ConfigTree(
            yaml: "# first\na:\n  b: 1\n  c:\n    - 2\n    - 3\nd: {e: 4,\n  f: 5}\n", source: "run.yaml")
        let places = tree.places()
        #expect(places.mapValues(\.line) == ["a": 2, "a.b": 3, "a.c": 4, "d": 7, "d.e": 7, "d.f": 8])
        #expect(places["a.b"]?.description == "run.yaml:3")
    }

    @Test func wordsOfYAML11AreTextsWhereATextIsWanted() throws {
        for word in ["no", "off", "NO", "on", "y", "1e-4", "007", "0x10", "2024-01-01", "1_000", "1:30", "none"] {
            var section = try section("key: \(word)")
            #expect(try section.text("key") == word)
        }
    }

    @Test(arguments: [
        ("3e-4", 3e-4), ("1e-4", 1e-4), ("1E+3", 1000), (".5", 0.5), ("1.", 1), ("-2.5", -2.5), ("7", 7),
        ("1_000.5", 1000.5),
        ("+3", 3),
    ]) func numbersAreNumbers(text: String, expected: Double) throws {
        var section = try section("key: \(text)")
        #expect(try section.number("key", default: 0) == expected)
    }

    @Test(arguments: [
        "nan", ".inf", "0x10", "1e999", "abc", "1,5", "1__0", "_1", "e5", "\"1\"", "[1]", "{}", "yes", "none",
    ])
    func otherTextsAreNoNumbers(text: String) throws {
        let message = configMessage {
            var section = try section("\nkey: \(text)")
            return try section.number("key", default: 0)
        }
        #expect(message.contains("run.yaml:2: key is ") && message.contains("a number would work"), "\(message)")
    }

    @Test(arguments: [
        ("1_000", 1000), ("1e6", 1_000_000), ("9223372036854775807", Int.max), ("-9223372036854775808", Int.min),
        ("010", 10),
        ("+5", 5),
    ]) func wholeNumbersAreExact(text: String, expected: Int) throws {
        var section = try section("key: \(text)")
        #expect(try section.integer("key") == expected)
    }

    @Test(arguments: ["9223372036854775808", "1.0", "1.5", "1e-1", "1e300", "12k", "\"5\"", "0b1", "none"])
    func otherTextsAreNoWholeNumbers(text: String) throws {
        let message = configMessage {
            var section = try section("key: \(text)")
            return try section.integer("key", default: 3)
        }
        #expect(message.contains("run.yaml:1: key is ") && message.contains("a whole number would work"), "\(message)")
    }

    @Test func seedsMayUseAll64Bits() throws {
        var section = try section("seed: 18446744073709551615\nbad: 18446744073709551616\nless: -1")
        #expect(try section.unsigned("seed", default: 0) == .max)
        #expect(configMessage { try section.unsigned("bad", default: 0) }.contains("run.yaml:2"))
        #expect(configMessage { try section.unsigned("less", default: 0) }.contains("run.yaml:3"))
    }

    @Test func switchesTakeTheWordsOfYAML11() throws {
        for (word, expected) in [
            ("true", true), ("yes", true), ("On", true), ("FALSE", false), ("no", false), ("off", false),
        ] {
            var section = try section("key: \(word)")
            #expect(try section.flag("key", default: !expected) == expected)
        }
        for word in ["1", "\"true\"", "maybe", "[true]"] {
            let message = configMessage {
                var section = try section("key: \(word)")
                return try section.flag("key", default: true)
            }
            #expect(message.contains("true or false would work"), "\(message)")
        }
    }

    @Test(arguments: [
        ("4096", 4096), ("512MiB", 512 << 20), ("1.5GiB", 3 << 29), ("1.5 GiB", 3 << 29), ("2GB", 2_000_000_000),
        ("7B", 7),
        ("1_000KiB", 1_024_000), ("\"16GiB\"", 16 << 30), ("1TiB", 1 << 40),
    ]) func byteCountsTakeUnits(text: String, expected: Int) throws {
        var section = try section("key: \(text)")
        #expect(try section.optionalByteCount("key") == expected)
    }

    @Test(arguments: ["12x", "0", "-5", "MiB", "1e30TiB", "0.1B"]) func otherTextsAreNoByteCounts(text: String) throws {
        let message = configMessage {
            var section = try section("key: \(text)")
            return try section.optionalByteCount("key")
        }
        #expect(message.contains("512MiB would work"), "\(message)")
    }

    @Test func rangesAreHeldAndNamed() throws {
        func message(_ text: String, _ range: ConfigRange<Int>) -> String {
            configMessage {
                var section = try section("key: \(text)")
                return try section.integer("key", range)
            }
        }
        #expect(message("0", .atLeast(1)).contains("key is \"0\"; a whole number of at least 1 would work"))
        #expect(message("1", .atLeast(1)) == "no error")
        #expect(message("1", .above(1)).contains("above 1"))
        #expect(message("6", .within(1, 5)).contains("from 1 to 5"))
        #expect(message("5", .within(1, 5)) == "no error")
        #expect(message("5", .from(1, below: 5)).contains("of at least 1 and below 5"))
    }

    @Test func choicesListTheValidValues() throws {
        let message = configMessage {
            var section = try section("a: 1\nlayout: zigzga")
            return try section.choice("layout", default: AttentionSection.Layout.auto)
        }
        #expect(
            message.contains("run.yaml:2: layout is \"zigzga\"; one of auto, contiguous, zigzag, striped would work"))
        #expect(message.contains("did you mean zigzag?"))
    }

    @Test func unknownKeyNamesTheNearestAndTheLine() throws {
        let message = configMessage {
            var section = try section("rate: 1\nweight_decay: 2\nbeta3: 3")
            for key in ["rate", "weightDecay", "beta1"] { _ = try section.number(key, default: 0) }
            return try section.finish()
        }
        #expect(message.contains("run.yaml:2: unknown key weight_decay; did you mean weightDecay?"))
        #expect(message.contains("run.yaml:3: unknown key beta3 too"))
        #expect(message.contains("valid keys: weightDecay, beta1, rate"))
    }

    @Test func missingKeyPointsToItsMisspelling() throws {
        let message = configMessage {
            var section = try section("a: 1\nstpes: 5")
            _ = section.tree("a")
            return try section.integer("steps")
        }
        #expect(message.contains("run.yaml:1: steps is missing"))
        #expect(message.contains("run.yaml:2: did you mean steps by stpes?"))
    }

    @Test func overridesLieOnTop() throws {
        let base = try ConfigTree(yaml: "a: {b: 1, c: 2}\nd: 3", source: "run.yaml")
        let top = try ["a.b=7", "e.f=[1, x]", "a.c="].reduce(base) { try ConfigTree(override: $1).over($0) }
        let expected = try ConfigTree(yaml: "a: {b: 7, c: }\nd: 3\ne: {f: [1, x]}", source: "other.yaml")
        #expect(top == expected)
        #expect(top["a"]?["b"]?.place.description == "--set a.b=7")
        #expect(top["d"]?.place.description == "run.yaml:2")
        #expect(configMessage { try ConfigTree(override: "a.b") }.contains("--set a.b: no \"=\""))
        #expect(configMessage { try ConfigTree(override: "a..b=1") }.contains("--set a..b=1: an empty key"))
        #expect(configMessage { try ConfigTree(override: "a=[1") }.contains("--set a=[1"))
    }

    @Test func emptySectionLeavesThePresetAlone() throws {
        let base = try ConfigTree(yaml: "a: {b: 1}", source: "preset.yaml")
        #expect(try ConfigTree(yaml: "a:", source: "run.yaml").over(base) == base)
    }

    @Test func brokenYAMLNamesTheLine() {
        func message(_ yaml: String) -> String { configMessage { try ConfigTree(yaml: yaml, source: "run.yaml") } }
        #expect(message("a: 1\nb: [1, 2\nc: 3").contains("run.yaml:"))
        #expect(message("a: 1\n\tb: 2").contains("run.yaml:2: not valid YAML"))
        #expect(message("a: 1\nb: 2\na: 3").contains("\"a\" is there twice"))
        #expect(message("a: 1\n\"a\": 3").contains("\"a\" is there twice"))
        #expect(message("1: a\n\"1\": b").contains("run.yaml:2: the key \"1\" is there twice"))
        #expect(message("a: 1\n? [x]\n: 2").contains("run.yaml:2: a key must be a word"))
        #expect(message("a: *b").contains("run.yaml:1"))
        #expect(message("a: 1\n---\nb: 2").contains("another document"))
        #expect(message("- 1\n- 2") == "no error")
        #expect(configMessage { try section("- 1") }.contains("the config must be a section of keys, not a list"))
    }

    @Test func aliasesThatBlowUpAreRefused() {
        let layers = (1..<20).map { layer in
            "l\(layer): &a\(layer) [\(Array(repeating: "*a\(layer - 1)", count: 10).joined(separator: ", "))]"
        }
        let yaml = (["l0: &a0 x"] + layers).joined(separator: "\n")
        #expect(configMessage { try ConfigTree(yaml: yaml, source: "run.yaml") }.contains("more than 100000 values"))
    }

    @Test func writtenTreesReadBackEqual() throws {
        let texts = [
            "plain", "no", "1e5", "", " lead", "a: b", "#x", "\"q\"", "line\nline", "tab\t", "é漢😀", "~", "none", "auto",
            "-",
            "a,b", "[x", "\u{0}\u{7f}\u{85}\u{2028}\u{feff}", "path/to-file.h5", "*star", "&and", "!tag", "%p", "@at",
            "`b",
            "back\\slash", "NULL", "0x1F", "1:30", "=", "<<", "?", "12_3", "+1", ".5", "..", "_",
        ]
        for text in texts {
            let tree = ConfigTree.mapping([
                ("key", .text(text)), (text, .word("x")),
                ("list", ConfigTree(.sequence([.text(text), .mapping([("in", .text(text))])]), place: .made)),
            ])
            let again = try ConfigTree(yaml: tree.yaml, source: "again.yaml")
            #expect(again == tree, "\(text.debugDescription):\n\(tree.yaml)")
            var section = try ConfigSection(again, name: "")
            #expect(try section.optionalText("key") == text)
        }
    }

    @Test func treesFromAnyStyleReadBackEqual() throws {
        let yaml = """
            a: {b: [1, [2, 3], {c: 4}], d: {}, e: []}
            f: 'single''s'
            g: |
              block
                text
            h: >
              folded
              text
            i: two words, three
            j:
            k: plain over
              two lines

              and a gap
            "l m": ~
            n: [~, null, "null"]
            p: a#b
            """
        let tree = try ConfigTree(yaml: yaml, source: "run.yaml")
        #expect(try ConfigTree(yaml: tree.yaml, source: "again.yaml") == tree, "\(tree.yaml)")
        #expect(tree["k"]?.content == .scalar("plain over two lines\nand a gap", isQuoted: true))
    }
}
