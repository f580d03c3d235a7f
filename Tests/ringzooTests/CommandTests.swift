import Foundation
import Testing

/// What holds for every command.
@Suite struct CommandTests {
    /// The commands below one, from its help: lines of the SUBCOMMANDS section.
    private func subcommands(of command: [String]) throws -> [[String]] {
        let help = try Tool.run(command + ["--help"])
        #expect(help.code == 0)
        guard let section = help.text.components(separatedBy: "SUBCOMMANDS:\n").dropFirst().first else { return [] }
        return section.split(separator: "\n", omittingEmptySubsequences: false).prefix { $0.hasPrefix("  ") }
            .filter { !$0.hasPrefix("   ") }
            .compactMap { line in
                line.split(separator: " ").first.map { command + [String($0)] }
            }
    }

    @Test func everyCommandShowsAnExampleThatNamesIt() throws {
        var waiting: [[String]] = [[]]
        var seen: [String] = []
        while let command = waiting.popLast() {
            let below = try subcommands(of: command)
            waiting += below
            if !below.isEmpty { continue }
            let name = (["ringzoo"] + command).joined(separator: " ")
            let help = try Tool.run(command + ["--help"]).text
            // Help is wrapped at the width of a terminal.
            let words = help.split { $0 == " " || $0 == "\n" }.joined(separator: " ")
            #expect(words.contains("Example: \(name)"), "\(name)")
            seen.append(name)
        }
        let all = [
            "train", "evaluate", "generate", "forward", "checkpoint inspect", "checkpoint verify", "checkpoint import",
            "checkpoint export", "attention run", "attention bench", "models", "backends", "doctor",
        ]
        #expect(Set(seen).isSuperset(of: all.map { "ringzoo \($0)" }), "\(seen)")
    }

    @Test func versionNamesCommitAndKernels() throws {
        let version = try Tool.succeed("--version").text
        #expect(version.hasPrefix("ringzoo ") && version.contains("attention kernels"))
        let portable = try Tool.succeed("--version", environment: ["RINGZOO_KERNELS": "portable"]).text
        #expect(portable.contains("attention kernels portable"))
    }

    @Test func wrongUseEndsWith64() throws {
        try Tool.fail(64, ["abracadabra"], "abracadabra")
        try Tool.fail(64, ["checkpoint"], "generate", "--prompt", "x")
        try Tool.fail(64, ["--nix"], "doctor", "--nix")
    }

    @Test func badConfigEndsWith78AndItsLine() throws {
        let folder = try TemporaryFolder()
        try folder.write("harbour.txt", String(repeating: "The harbour lies still. ", count: 100))
        try folder.write(
            "run.yaml",
            """
            model: { name: llama, preset: debug }
            data: { path: harbour.txt, context: 32 }
            optimizer:
              rat: 3
            run: { directory: out, steps: 2 }
            """)
        try Tool.fail(78, ["run.yaml:4", "optimizer.rat", "did you mean rate?"], "train", "run.yaml", in: folder)
        try Tool.fail(
            78, ["--set optimizer.rate=x", "optimizer.rate is \"x\""], "train", "run.yaml", "--set", "optimizer.rate=x",
            in: folder)
        try Tool.fail(66, ["nowhere.yaml"], "train", "nowhere.yaml", in: folder)
        let environment = try Tool.run(["doctor"], environment: ["RINGZOO_KERNELS": "abacus"])
        #expect(environment.code == 78 && environment.errors.contains("abacus"))
        #expect(folder.names == ["harbour.txt", "run.yaml"])
    }

    @Test func benchPrintsJSONAlone() throws {
        let result = try Tool.succeed(
            "attention", "bench", "--backends", "cpu", "--shapes", "1,2,1,32,8", "--seconds", "0", "--json")
        let object = try result.json()
        #expect(object["backend"] as? String == "cpu" && object["tokens"] as? Int == 32)
        #expect((object["forwardSeconds"] as? Double ?? 0) > 0 && (object["ceilingGFLOPS"] as? Double ?? 0) > 0)
    }

    @Test func benchCountsVisiblePairsOfEveryTerm() throws {
        // 4 queries against 32 keys in documents of 8 under a causal mask: 5 to 8 keys each, the diagonal half.
        let result = try Tool.succeed(
            "attention", "bench", "--backends", "cpu", "--shapes", "1,2,1,32,8", "--seconds", "0", "--json", "--mask",
            "causal",
            "--documents", "8", "--queries", "4", "--soft-cap", "30", "--bias", "--sinks")
        let object = try result.json()
        let operations =
            (object["forwardGFLOPS"] as? Double ?? 0) * (object["forwardSeconds"] as? Double ?? 0) * 1e9
        #expect(abs(operations - 4 * 2 * 8 * (5 + 6 + 7 + 8 - 4 * 0.5)) < 1e-3)
        #expect(object["mask"] as? String == "causal documents 8 cap 30.0 sinks bias queries 4")
    }

    @Test func aWrongWindowPrintsNoHeader() throws {
        let result = try Tool.run(["attention", "bench", "--shapes", "1,1,1,8,8", "--window", "wide"])
        #expect(result.code == 64 && result.text.isEmpty && result.errors.contains("wide"))
    }
}
