import Foundation
import Testing

/// A short training run through the command line, and what can be measured on its checkpoints.
@Suite struct EvaluateTests {
    private static let config = """
        model: { name: llama, preset: debug, context: 48 }
        attention: { backend: auto }
        data: { path: corpus.txt, batch: 2, validation: 0.2 }
        run: { directory: out, steps: 4, evaluateEvery: 4 }
        """

    private func withRun() throws -> TemporaryFolder {
        let folder = try TemporaryFolder()
        let corpus = URL(fileURLWithPath: fixture("../Corpus/harbour.txt"))
        try Data(contentsOf: corpus).prefix(12_000).write(to: URL(fileURLWithPath: folder / "corpus.txt"))
        try folder.write("run.yaml", Self.config)
        try Tool.succeed("train", "run.yaml", in: folder)
        return folder
    }

    private let checkpoint = "out/checkpoints/step-00000004.h5"

    private func evaluate(_ folder: TemporaryFolder, _ arguments: String...) throws -> [String: Any] {
        try evaluate(folder, arguments)
    }

    private func evaluate(_ folder: TemporaryFolder, _ arguments: [String]) throws -> [String: Any] {
        let result = try Tool.run(
            ["evaluate", "run.yaml", "--checkpoint", checkpoint, "--json"] + arguments, in: folder)
        #expect(result.code == 0, "\(result.errors)")
        return try result.json()
    }

    @Test func evaluateEqualsTheTrainingRunAndAnyNumberOfRanks() throws {
        let folder = try withRun()
        let one = try evaluate(folder)
        let loss = try #require(one["loss"] as? Double)
        // The training run's own evaluation, with as many batches as there are: below its limit of 50.
        let metrics = try String(contentsOfFile: folder / "out/metrics.jsonl", encoding: .utf8)
        let lines = try metrics.split(separator: "\n").map {
            try #require(JSONSerialization.jsonObject(with: Data($0.utf8)) as? [String: Any])
        }
        let own = try #require(lines.compactMap { $0["validationLoss"] as? Double }.last)
        #expect(loss == own)
        #expect(lines.compactMap { $0["validationTargets"] as? Int }.last == one["targets"] as? Int)
        #expect(loss > 3 && loss < 7)

        // One byte a token: bits per byte are the loss in bits.
        #expect(one["bytes"] as? Int == one["targets"] as? Int)
        #expect(abs((one["bitsPerByte"] as? Double ?? 0) - loss / log(2)) < 1e-12)
        #expect(abs((one["perplexity"] as? Double ?? 0) - exp(loss)) < 1e-9)
        #expect(one["targets"] as? Int == 2399)

        for ranks in [2, 3] {
            let ring = try evaluate(folder, "--ranks", "\(ranks)")
            #expect(abs((ring["loss"] as? Double ?? 0) - loss) < 1e-5)
            #expect(ring["ranks"] as? Int == ranks && ring["targets"] as? Int == 2399)
        }
        for spread in ["tensor=2", "sequence=2"] {
            let spread = ["--set", "parallel.\(spread)", "--set", "parallel.shardParameters=true"]
            let found = try evaluate(folder, spread)
            #expect(abs((found["loss"] as? Double ?? 0) - loss) < 1e-5 && found["ranks"] as? Int == 2)
        }
        let limited = try evaluate(folder, "--limit", "3")
        #expect(limited["batches"] as? Int == 3 && limited["targets"] as? Int == 3 * 2 * 48)

        let table = try Tool.succeed("evaluate", "run.yaml", "--checkpoint", checkpoint, in: folder).text
        #expect(table.contains("perplexity") && table.contains("bits per byte") && table.contains("2,399"))
    }

    /// The loss must be the checkpoint's: the config's model and `from` are not what is measured.
    @Test func theModelIsTheCheckpoints() throws {
        let folder = try withRun()
        let loss = try #require(try evaluate(folder)["loss"] as? Double)
        let others = try evaluate(
            folder, "--set", "model.preset=7b", "--set", "model.from=nowhere.h5", "--set", "data.context=48")
        #expect(others["loss"] as? Double == loss)
        let said = try Tool.succeed(
            "evaluate", "run.yaml", "--checkpoint", checkpoint, "--set", "model.layers=3", in: folder)
        #expect(said.errors.contains(#"layers "2" ("3" in the config)"#))
        try writeCheckpoint(folder / "other.h5")
        let other = try Tool.succeed(
            "evaluate", "run.yaml", "--checkpoint", "other.h5", "--json", "--set", "data.context=48", in: folder)
        #expect(try other.json()["loss"] as? Double != loss)
    }

    /// Tokens of four bytes, and an end token whose loss counts but which is no text.
    @Test func bitsPerByteCountBytesOfText() throws {
        let folder = try TemporaryFolder()
        let tokens = (0..<256).map { Data([UInt8($0)]) } + [Data("ab".utf8), Data("abab".utf8)]
        let ranks = tokens.enumerated().map { "\($1.base64EncodedString()) \($0)\n" }.joined()
        try folder.write("letters.tiktoken", ranks)
        try folder.write("data.jsonl", String(repeating: #"{"prompt": "x", "completion": "abab"}"# + "\n", count: 20))
        try folder.write(
            "run.yaml",
            """
            model: { name: llama, preset: debug }
            data: { kind: jsonl, path: data.jsonl, tokenizer: "gpt2:letters.tiktoken", batch: 2, context: 16, validation: 0.5 }
            run: { directory: out, steps: 1 }
            """)
        try writeCheckpoint(folder / "model.h5", vocabulary: 259, tokenizer: nil)
        let object = try Tool.succeed("evaluate", "run.yaml", "--checkpoint", "model.h5", "--json", in: folder).json()
        // Ten records of one token and the end; prompts are not learned.
        #expect(object["targets"] as? Int == 20 && object["bytes"] as? Int == 40)
        let (loss, bits) = (object["loss"] as? Double ?? 0, object["bitsPerByte"] as? Double ?? 0)
        #expect(loss > 0 && abs(bits - loss * 20 / 40 / log(2)) < 1e-12)
    }

    @Test func wrongUseIsNamed() throws {
        let folder = try TemporaryFolder()
        try folder.write("corpus.txt", String(repeating: "The harbour lies still. ", count: 100))
        try folder.write("run.yaml", Self.config)
        try Tool.fail(66, ["nowhere.h5"], "evaluate", "run.yaml", "--checkpoint", "nowhere.h5", in: folder)
        try writeCheckpoint(folder / "model.h5")
        try Tool.fail(
            78, ["--set data.validation=0", "nothing to evaluate on"], "evaluate", "run.yaml", "--checkpoint",
            "model.h5", "--set", "data.validation=0", in: folder)
        try Tool.fail(
            64, ["a limit of 0"], "evaluate", "run.yaml", "--checkpoint", "model.h5", "--limit", "0", in: folder)
        try Tool.fail(
            78, ["--set model.name=lama", "'llama'"], "evaluate", "run.yaml", "--checkpoint", "model.h5", "--set",
            "model.name=lama", in: folder)
        #expect(folder.names == ["corpus.txt", "model.h5", "run.yaml"])
    }
}
