import Foundation
import TensorCore
import Yams

extension ConfigTree {
    /// Parses one YAML document; `source` is the name for messages.
    ///
    /// Throws `.config` with the line for text that is not YAML, a key that is there twice, a key that is not text, and a
    /// document that aliases blow up to more than 100,000 values.
    public init(yaml: String, source: String) throws {
        let start = ConfigPlace(source: source, line: 1)
        let node: Node?
        do {
            node = try Yams.compose(yaml: yaml)
        } catch let error as YamlError {
            throw syntaxError(error, source: source)
        }
        var converter = Converter(source: source)
        self = try node.map { try converter.convert($0, place: start) } ?? ConfigTree(.null, place: start)
    }

    /// Reads a YAML file; `.missingInput` where it is not there.
    public init(path: String) throws {
        guard FileManager.default.fileExists(atPath: path) else {
            throw RingZooError(.missingInput, "\(path): no such config file")
        }
        let data: Data
        do {
            data = try Data(contentsOf: URL(fileURLWithPath: path))
        } catch {
            throw RingZooError(.inputOutput, "\(path): the config file cannot be read", underlying: error)
        }
        guard let text = String(data: data, encoding: .utf8) else {
            throw RingZooError(.config, "\(path): the config file is not UTF-8")
        }
        try self.init(yaml: text, source: path)
    }

    /// Makes the tree of one override, `a.b=value`; the value is YAML.
    public init(override text: String) throws {
        let place = ConfigPlace(source: "--set \(text)")
        guard let equals = text.firstIndex(of: "=") else {
            throw configError(place, "no \"=\"", tried: ["--set section.key=value would work"])
        }
        let keys = text[..<equals].split(separator: ".", omittingEmptySubsequences: false).map(String.init)
        guard keys.allSatisfy({ !$0.isEmpty }) else {
            throw configError(place, "an empty key", tried: ["--set section.key=value would work"])
        }
        let value = try ConfigTree(yaml: String(text[text.index(after: equals)...]), source: place.source)
        self = keys.reversed().reduce(value.placed(at: place)) { inner, key in
            ConfigTree(.mapping([Entry(key, inner)]), place: place)
        }
    }

    /// The same tree with one place for all of it.
    func placed(at place: ConfigPlace) -> ConfigTree {
        switch content {
        case .null, .scalar: ConfigTree(content, place: place)
        case .sequence(let items): ConfigTree(.sequence(items.map { $0.placed(at: place) }), place: place)
        case .mapping(let entries):
            ConfigTree(.mapping(entries.map { Entry($0.key, $0.value.placed(at: place)) }), place: place)
        }
    }
}

/// Turns the parser's nodes into a tree.
private struct Converter {
    let source: String
    private var count = 0
    private static let mostValues = 100_000

    init(source: String) { self.source = source }

    mutating func convert(_ node: Node, place: ConfigPlace) throws -> ConfigTree {
        count += 1
        guard count <= Self.mostValues else {
            throw configError(place, "more than \(Self.mostValues) values, aliases counted each time")
        }
        switch node {
        case .scalar(let scalar): return ConfigTree(content(of: scalar), place: place)
        case .sequence(let sequence):
            let items = try sequence.map { try convert($0, place: self.place(of: $0, or: place)) }
            return ConfigTree(.sequence(items), place: place)
        case .mapping(let mapping):
            var entries: [ConfigTree.Entry] = []
            var keys: Set<String> = []
            for (key, value) in mapping {
                let keyPlace = self.place(of: key, or: place)
                guard case .scalar(let scalar) = key else { throw configError(keyPlace, "a key must be a word") }
                // The parser compares keys as YAML values, for which `"a"` and `a` may differ.
                guard keys.insert(scalar.string).inserted else {
                    throw configError(keyPlace, "the key \"\(scalar.string)\" is there twice")
                }
                entries.append(ConfigTree.Entry(scalar.string, try convert(value, place: keyPlace)))
            }
            return ConfigTree(.mapping(entries), place: place)
        case .alias: throw configError(place, "an alias that was not resolved")
        }
    }

    private func place(of node: Node, or place: ConfigPlace) -> ConfigPlace {
        ConfigPlace(source: source, line: node.mark?.line ?? place.line)
    }

    private func content(of scalar: Node.Scalar) -> ConfigTree.Content {
        guard scalar.style == .plain || scalar.style == .any else { return .scalar(scalar.string, isQuoted: true) }
        if ["", "~", "null", "Null", "NULL"].contains(scalar.string) { return .null }
        // A plain scalar over several lines can only be written back with quotes.
        return .scalar(scalar.string, isQuoted: scalar.string.contains("\n"))
    }
}

private func syntaxError(_ error: YamlError, source: String) -> RingZooError {
    func make(_ problem: String, _ line: Int?) -> RingZooError {
        configError(ConfigPlace(source: source, line: line), "not valid YAML: \(problem)")
    }
    switch error {
    case .scanner(let context, let problem, let mark, _), .parser(let context, let problem, let mark, _),
        .composer(let context, let problem, let mark, _):
        let about = context.map { "\($0.text), " } ?? ""
        return make("\(about)\(problem)", mark.line)
    case .duplicatedKeysInMapping(let keys, let context):
        let place = ConfigPlace(source: source, line: context.mark.line)
        return configError(place, "the key \(keys.map { "\"\($0)\"" }.joined(separator: ", ")) is there twice")
    case .reader(let problem, let offset, _, let yaml):
        return make(problem, offset.map { yaml.prefix($0).count { $0.isNewline } + 1 })
    case .no, .memory, .writer, .emitter, .representer, .dataCouldNotBeDecoded: return make("\(error)", nil)
    }
}
