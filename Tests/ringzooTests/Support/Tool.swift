import Foundation
import Testing

/// The built command line tool, run as its users run it.
enum Tool {
    struct Result: Sendable {
        var code: Int32
        var output: Data
        var errors: String

        var text: String { String(decoding: output, as: UTF8.self) }
    }

    struct Missing: Error, CustomStringConvertible {
        var description: String { "no ringzoo beside \(CommandLine.arguments[0])" }
    }

    /// Lies beside the test bundle.
    private static let executable: URL? = {
        var folder = URL(fileURLWithPath: CommandLine.arguments[0]).deletingLastPathComponent()
        for _ in 0..<5 {
            let candidate = folder.appendingPathComponent("ringzoo")
            if FileManager.default.isExecutableFile(atPath: candidate.path) { return candidate }
            folder.deleteLastPathComponent()
        }
        return nil
    }()

    static func run(
        _ arguments: String..., in folder: TemporaryFolder? = nil, environment: [String: String] = [:],
        input: String? = nil
    ) throws -> Result { try run(arguments, in: folder, environment: environment, input: input) }

    /// Standard output and error go through files: a full pipe that nobody reads would stop the tool.
    static func run(
        _ arguments: [String], in folder: TemporaryFolder? = nil, environment: [String: String] = [:],
        input: String? = nil
    ) throws -> Result {
        let scratch = try TemporaryFolder()
        func file(_ name: String, _ content: String = "") throws -> FileHandle {
            _ = FileManager.default.createFile(atPath: scratch / name, contents: Data(content.utf8))
            return try #require(FileHandle(forUpdatingAtPath: scratch / name))
        }
        guard let executable else { throw Missing() }
        let process = Process()
        process.executableURL = executable
        process.arguments = arguments
        process.currentDirectoryURL = URL(fileURLWithPath: (folder ?? scratch).path)
        process.environment = ProcessInfo.processInfo.environment.merging(environment) { $1 }
        process.standardInput = try file("in", input ?? "")
        process.standardOutput = try file("out")
        process.standardError = try file("err")
        try process.run()
        process.waitUntilExit()
        return Result(
            code: process.terminationStatus, output: try Data(contentsOf: URL(fileURLWithPath: scratch / "out")),
            errors: try String(contentsOfFile: scratch / "err", encoding: .utf8))
    }

    /// Runs, and expects that it went well.
    @discardableResult
    static func succeed(
        _ arguments: String..., in folder: TemporaryFolder? = nil, environment: [String: String] = [:],
        input: String? = nil, sourceLocation: SourceLocation = #_sourceLocation
    ) throws -> Result {
        let result = try run(arguments, in: folder, environment: environment, input: input)
        #expect(result.code == 0, "\(arguments): \(result.errors)", sourceLocation: sourceLocation)
        return result
    }

    /// Runs, and expects this exit code, nothing on standard output and all of these words on standard error.
    static func fail(
        _ code: Int32, _ words: [String], _ arguments: String..., in folder: TemporaryFolder? = nil,
        sourceLocation: SourceLocation = #_sourceLocation
    ) throws {
        let result = try run(arguments, in: folder)
        #expect(result.code == code, "\(arguments): \(result.errors)", sourceLocation: sourceLocation)
        #expect(result.text == "", sourceLocation: sourceLocation)
        for word in words {
            #expect(result.errors.contains(word), "\(arguments): \(result.errors)", sourceLocation: sourceLocation)
        }
    }
}

extension Tool.Result {
    /// The one JSON object that standard output is, up to its line end.
    func json(sourceLocation: SourceLocation = #_sourceLocation) throws -> [String: Any] {
        #expect(output.last == UInt8(ascii: "\n") && output.filter { $0 == UInt8(ascii: "\n") }.count == 1)
        return try #require(
            JSONSerialization.jsonObject(with: output) as? [String: Any], "\(text)", sourceLocation: sourceLocation)
    }
}

/// A folder that goes away with the test.
final class TemporaryFolder: Sendable {
    let path: String

    init() throws {
        path = NSTemporaryDirectory() + "ringzoo-tool-\(UUID().uuidString)"
        try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true)
    }

    deinit { try? FileManager.default.removeItem(atPath: path) }

    static func / (folder: TemporaryFolder, name: String) -> String { folder.path + "/" + name }

    /// All names in the folder, hidden ones included.
    var names: [String] { ((try? FileManager.default.contentsOfDirectory(atPath: path)) ?? []).sorted() }

    func write(_ name: String, _ text: String) throws {
        try Data(text.utf8).write(to: URL(fileURLWithPath: self / name))
    }
}

/// A file or folder in `Tests/Fixtures`.
func fixture(_ name: String) -> String {
    let tests = URL(fileURLWithPath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
        .deletingLastPathComponent()
    return tests.appendingPathComponent("Fixtures/\(name)").path
}

/// Flips one bit of a file.
func flipBit(_ path: String, at offset: Int) throws {
    var bytes = try Data(contentsOf: URL(fileURLWithPath: path))
    bytes[offset] ^= 0x10
    try bytes.write(to: URL(fileURLWithPath: path))
}
