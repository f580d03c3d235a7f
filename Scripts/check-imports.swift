// Holds every import to the direction stated at the top of Package.swift.
//
// 1. No target depends on, and no file imports, a layer above its own.
// 2. Backends and models stand beside each other: none imports another, of either kind.
// 3. A file imports only what its target reaches through the dependencies it declares. (SwiftPM alone lets a file import
//    whatever happens to be built already.) C targets and packages from outside must be declared by the target itself,
//    except in tests.
//
// It asks `swift package dump-package` for the targets, so a new target in Sources needs one line in `coreLayers` below.
import Foundation

/// From the bottom up. ConformanceKit stands with the backends and models: tests and people outside use it, no core may.
let coreLayers: [[String]] = [
    ["TensorCore"],
    ["AttentionCore"],
    ["TrainingCore", "NeuralCore", "CheckpointCore", "DistributedCore", "DataCore", "BlockwiseAttention"],
    ["ZooCore"],
    ["ConformanceKit"],
    ["ZooStandard"],
    ["ringzoo", "context-law", "products", "slow-link", "mpi-ranks"],
]
let neighbourLayer = coreLayers.firstIndex(of: ["ConformanceKit"])!

struct Manifest: Decodable {
    struct Target: Decodable {
        var name: String
        var type: String
        var path: String?
        var dependencies: [Dependency]
    }

    /// `{"byName": ["X", null]}`, `{"target": ["X", null]}` or `{"product": ["X", "package", null, null]}`.
    struct Dependency: Decodable {
        var name: String

        init(from decoder: any Decoder) throws {
            let kinds = try decoder.singleValueContainer().decode([String: [Word]].self)
            guard case .text(let name)? = kinds.values.first?.first else {
                throw DecodingError.dataCorrupted(
                    .init(codingPath: decoder.codingPath, debugDescription: "a dependency without a name"))
            }
            self.name = name
        }
    }

    enum Word: Decodable {
        case text(String)
        case other

        init(from decoder: any Decoder) throws {
            let value = try? decoder.singleValueContainer().decode(String.self)
            self = value.map(Word.text) ?? .other
        }
    }

    var targets: [Target]
}

func stop(_ message: String) -> Never {
    FileHandle.standardError.write(Data("check-imports: \(message)\n".utf8))
    exit(1)
}

func output(of arguments: [String]) throws -> Data {
    let process = Process()
    process.executableURL = URL(fileURLWithPath: "/usr/bin/env")
    process.arguments = arguments
    let pipe = Pipe()
    process.standardOutput = pipe
    try process.run()
    let data = pipe.fileHandleForReading.readDataToEndOfFile()
    process.waitUntilExit()
    guard process.terminationStatus == 0 else { stop("\(arguments.joined(separator: " ")) failed") }
    return data
}

/// The modules a Swift file imports, with their line numbers; `import struct A.B` counts as A.
func imports(in text: String) -> [(line: Int, module: String)] {
    let pattern =
        #/^\s*(?:(?:@\w+(?:\([^)]*\))?|public|package|internal|fileprivate|private)\s+)*import\s+(?:(?:struct|class|enum|protocol|func|var|let|typealias|actor)\s+)?(\w+)/#
    return text.split(separator: "\n", omittingEmptySubsequences: false).enumerated().compactMap { index, line in
        guard let match = try? pattern.prefixMatch(in: line) else { return nil }
        return (index + 1, String(match.1))
    }
}

let top = String(decoding: try output(of: ["git", "rev-parse", "--show-toplevel"]), as: UTF8.self)
    .trimmingCharacters(in: .newlines)
guard FileManager.default.changeCurrentDirectoryPath(top) else { stop("no folder \(top)") }
let manifest = try JSONDecoder().decode(Manifest.self, from: output(of: ["swift", "package", "dump-package"]))
let targets = Dictionary(uniqueKeysWithValues: manifest.targets.map { ($0.name, $0) })

func path(of target: Manifest.Target) -> String {
    target.path ?? (target.type == "test" ? "Tests/" : "Sources/") + target.name
}

/// Nil for what has no layer: C targets (below all), tests and packages from outside.
func layer(of name: String) -> Int? {
    guard let target = targets[name], target.type != "test" else { return nil }
    return isNeighbour(target) ? neighbourLayer : coreLayers.firstIndex { $0.contains(name) }
}

func isNeighbour(_ target: Manifest.Target) -> Bool {
    path(of: target).hasPrefix("Plugins/") || path(of: target).hasPrefix("Models/")
}

/// Everything `name` reaches through declared dependencies, itself excluded.
func reachable(from name: String) -> Set<String> {
    var found: Set<String> = []
    var waiting = targets[name]?.dependencies.map(\.name) ?? []
    while let next = waiting.popLast() {
        if found.insert(next).inserted { waiting += targets[next]?.dependencies.map(\.name) ?? [] }
    }
    return found
}

/// Why `target` may not use `name`, by rules 1 and 2; nil when it may.
func objection(to name: String, in target: Manifest.Target) -> String? {
    guard let own = layer(of: target.name), let other = layer(of: name), name != target.name else { return nil }
    if other > own { return "\(target.name) is a layer below \(name)" }
    if isNeighbour(target), other == own {
        return "\(target.name) and \(name) are neighbours and may not know each other"
    }
    return nil
}

// Modules that some target of ours or some product we depend on provides; all others come with the toolchain.
let known = Set(targets.keys).union(manifest.targets.flatMap { $0.dependencies.map(\.name) })
var problems: [String] = []
var fileCount = 0

for target in manifest.targets.sorted(by: { $0.name < $1.name }) {
    for dependency in target.dependencies {
        if let why = objection(to: dependency.name, in: target) { problems.append("Package.swift: \(why)") }
    }
    let folder = path(of: target)
    guard let names = FileManager.default.enumerator(atPath: folder)?.compactMap({ $0 as? String }) else {
        problems.append("Package.swift: no folder \(folder) for \(target.name)")
        continue
    }
    let files = names.filter { $0.hasSuffix(".swift") }.sorted()
    if !files.isEmpty, target.type != "test", layer(of: target.name) == nil {
        problems.append("\(target.name): in no layer; add it to coreLayers in Scripts/check-imports.swift")
    }
    let declared = Set(target.dependencies.map(\.name))
    let allowed = reachable(from: target.name).union([target.name])
        .filter { target.type == "test" || layer(of: $0) != nil || declared.contains($0) }
    for file in files {
        fileCount += 1
        for (line, module) in imports(in: try String(contentsOfFile: "\(folder)/\(file)", encoding: .utf8)) {
            guard known.contains(module) else { continue }
            if let why = objection(to: module, in: target) {
                problems.append("\(folder)/\(file):\(line): import \(module): \(why)")
            } else if !allowed.contains(module) {
                problems.append(
                    "\(folder)/\(file):\(line): import \(module): not a dependency of \(target.name) in Package.swift")
            }
        }
    }
}

if fileCount == 0 { stop("found no Swift files; is this the right folder?") }
if !problems.isEmpty { stop((["imports against the direction of Package.swift"] + problems).joined(separator: "\n  ")) }
