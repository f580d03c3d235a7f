import AttentionCore
import CheckpointCore
import DataCore
import Foundation
import NeuralCore
import TensorCore
import Testing
import ZooCore
import ZooStandard

@Suite struct GenerateTests {
    private func withCheckpoint(_ seed: UInt64 = 1) throws -> TemporaryFolder {
        let folder = try TemporaryFolder()
        try writeCheckpoint(folder / "model.h5", seed: seed)
        return folder
    }

    private func generate(
        _ folder: TemporaryFolder, _ arguments: String..., threads: Int = 1
    ) throws -> Tool.Result {
        try Tool.run(
            ["generate", "--checkpoint", "model.h5"] + arguments, in: folder,
            environment: ["RINGZOO_THREADS": "\(threads)"])
    }

    @Test func sameSeedGivesTheSameTextAtAnyThreadCount() throws {
        let folder = try withCheckpoint()
        let first = try generate(folder, "--prompt", "The sea", "--seed", "7", "--max-tokens", "50")
        #expect(first.code == 0 && !first.output.isEmpty, "\(first.errors)")
        for threads in [1, 3] {
            let again = try generate(
                folder, "--prompt", "The sea", "--seed", "7", "--max-tokens", "50", threads: threads)
            #expect(again.output == first.output)
        }
        let other = try generate(folder, "--prompt", "The sea", "--seed", "8", "--max-tokens", "50")
        #expect(other.output != first.output)
    }

    /// Random weights write random bytes: half characters are everywhere.
    @Test func standardOutputIsUTF8AndTheTextOfTheJSON() throws {
        let folder = try withCheckpoint()
        for seed in ["1", "2"] {
            let options = ["--seed", seed, "--max-tokens", "120", "--temperature", "1", "--prompt"]
            let plain = try Tool.run(["generate", "--checkpoint", "model.h5"] + options + ["é"], in: folder)
            #expect(String(validating: plain.output, as: UTF8.self) != nil)
            let json = try Tool.run(["generate", "--checkpoint", "model.h5", "--json"] + options + ["é"], in: folder)
                .json()
            let text = try #require(json["text"] as? String)
            #expect(text.utf8.elementsEqual(plain.output))
            let tokens = try #require(json["tokens"] as? [Int])
            #expect(tokens.count == 120 && json["promptTokens"] as? Int == 2)
            #expect(json["end"] as? String == "maximumCount" && json["stop"] is NSNull)
            #expect(ByteTokenizer().decode(tokens.map { Int32($0) }).utf8.elementsEqual(text.utf8))
        }
    }

    @Test func stopTextEndsTheTextBeforeIt() throws {
        let folder = try withCheckpoint()
        let greedy = ["generate", "--checkpoint", "model.h5", "--prompt", "a", "--temperature", "1", "--seed", "3"]
        let whole = try Tool.run(greedy + ["--json"], in: folder).json()["text"] as? String ?? ""
        // Two characters from the middle that stand there for the first time.
        let scalars = Array(whole.unicodeScalars).filter { $0.isASCII }
        let stop = try #require(scalars.dropFirst(20).first { $0.value > 32 }.map { String($0) })
        let end = try #require(whole.unicodeScalars.firstIndex(of: Unicode.Scalar(stop)!))
        let before = String(whole.unicodeScalars[..<end])
        let result = try Tool.run(greedy + ["--stop", "nowhere to be found", "--stop", stop], in: folder)
        #expect(result.text.unicodeScalars.elementsEqual(before.unicodeScalars))
        let json = try Tool.run(greedy + ["--stop", stop, "--json"], in: folder).json()
        #expect(json["end"] as? String == "stop" && json["stop"] as? String == stop)
    }

    @Test func promptMayComeFromAFileOrStandardInput() throws {
        let folder = try withCheckpoint()
        let prompt = "Ein Hafen, čtyři lodě.\n"
        try folder.write("prompt.txt", prompt)
        let expected = try generate(folder, "--prompt", prompt, "--max-tokens", "10")
        #expect(expected.code == 0)
        #expect(try generate(folder, "--prompt-file", "prompt.txt", "--max-tokens", "10").output == expected.output)
        let piped = try Tool.run(
            ["generate", "--checkpoint", "model.h5", "--prompt-file", "-", "--max-tokens", "10"], in: folder,
            environment: ["RINGZOO_THREADS": "1"], input: prompt)
        #expect(piped.output == expected.output)
    }

    @Test func greedyTextDoesNotDependOnTheBackendOrTheSeed() throws {
        let folder = try withCheckpoint()
        let first = try generate(folder, "--prompt", "x", "--temperature", "0", "--attention", "cpu", "--seed", "1")
        let second = try generate(folder, "--prompt", "x", "--temperature", "0", "--attention", "blas", "--seed", "2")
        #expect(first.code == 0 && first.output == second.output, "\(first.errors) \(second.errors)")
    }

    /// Keys and values spread over ranks: the same text, greedy or drawn, in any layout, over any local backend.
    @Test func ranksWriteTheSameText() throws {
        let folder = try withCheckpoint()
        let prompt = ["--prompt", "The sea and the harbour", "--max-tokens", "40", "--seed", "7"]
        func text(_ options: String...) throws -> Data {
            let result = try Tool.run(["generate", "--checkpoint", "model.h5"] + prompt + options, in: folder)
            #expect(result.code == 0, "\(options): \(result.errors)")
            return result.output
        }
        let (drawn, greedy) = (try text(), try text("--temperature", "0"))
        #expect(drawn != greedy)
        #expect(try text("--ranks", "2") == drawn)
        #expect(try text("--ranks", "3", "--layout", "striped", "--attention", "gather") == drawn)
        #expect(try text("--ranks", "4", "--attention-local", "blas", "--temperature", "0") == greedy)
        let stop = String(String(decoding: drawn, as: UTF8.self).unicodeScalars.filter(\.isASCII).dropFirst(3).first!)
        #expect(try text("--ranks", "3", "--stop", stop) == text("--stop", stop))

        let options = ["generate", "--checkpoint", "model.h5", "--json", "--ranks", "3"] + prompt
        let json = try Tool.run(options, in: folder).json()
        #expect(json["ranks"] as? Int == 3 && (json["peakBytes"] as? Int ?? 0) > 0)
        #expect((json["text"] as? String)?.utf8.elementsEqual(drawn) == true)
    }

    /// The model spread over ranks, by layers and by rows: the same text from a part of the weights.
    @Test func aSpreadModelWritesTheSameText() throws {
        let folder = try withCheckpoint()
        let options = ["generate", "--checkpoint", "model.h5", "--prompt", "The sea", "--max-tokens", "30", "--json"]
        let whole = try Tool.run(options, in: folder).json()
        let weights = try #require(whole["weightBytes"] as? Int)
        for (ranks, spread) in [
            (2, ["--tensor", "2"]), (2, ["--ranks", "2", "--shard-parameters"]),
            (4, ["--ranks", "2", "--tensor", "2", "--shard-parameters"]),
        ] {
            let json = try Tool.run(options + spread, in: folder).json()
            #expect(json["ranks"] as? Int == ranks && json["text"] as? String == whole["text"] as? String, "\(spread)")
            // Norms are small, and whole on every tensor rank.
            let own = try #require(json["weightBytes"] as? Int)
            #expect(own > 0 && own < weights / ranks + weights / 20, "\(own) of \(weights) bytes")
        }
    }

    @Test func wrongUseIsNamed() throws {
        let folder = try withCheckpoint()
        let model = ["--checkpoint", "model.h5"]
        func fail(_ code: Int32, _ word: String, _ arguments: [String]) throws {
            let result = try Tool.run(["generate"] + arguments, in: folder)
            #expect(result.code == code && result.errors.contains(word) && result.text == "", "\(result)")
        }
        try fail(64, "there is no prompt", model)
        try fail(64, "both there", model + ["--prompt", "x", "--prompt-file", "y"])
        try fail(64, "the prompt is empty", model + ["--prompt", ""])
        try fail(64, "temperature is -1", model + ["--prompt", "x", "--temperature=-1"])
        try fail(64, "top-p is 0", model + ["--prompt", "x", "--top-p", "0"])
        try fail(64, "top-k is 0", model + ["--prompt", "x", "--top-k", "0"])
        try fail(64, "min-p is 2", model + ["--prompt", "x", "--min-p", "2"])
        try fail(64, "a stop text is empty", model + ["--prompt", "x", "--stop", ""])
        try fail(66, "no such file", model + ["--prompt-file", "nowhere.txt"])
        try fail(66, "nowhere.h5", ["--checkpoint", "nowhere.h5", "--prompt", "x"])
        try fail(78, "gtp2", model + ["--prompt", "x", "--tokenizer", "gtp2"])
        try fail(78, "nix", model + ["--prompt", "x", "--attention", "nix"])
        try fail(64, "--ranks is 0", model + ["--prompt", "x", "--ranks", "0"])
        try fail(64, "--tensor is 0", model + ["--prompt", "x", "--tensor", "0"])
        try fail(78, "--tensor is 3, but this model cannot be cut so", model + ["--prompt", "x", "--tensor", "3"])
        try fail(64, "--deadline is 0", model + ["--prompt", "x", "--ranks", "2", "--deadline", "0"])
        try fail(78, "which is for decoding", model + ["--prompt", "x", "--ranks", "2", "--attention", "tree"])
        try fail(78, "2 ranks share the sequence", model + ["--prompt", "x", "--ranks", "2", "--attention", "cpu"])
        try writeCheckpoint(folder / "small.h5", vocabulary: 96, tokenizer: nil)
        try fail(64, "holds no tokenizer", ["--checkpoint", "small.h5", "--prompt", "x"])
        try fail(
            78, "256 ids", ["--checkpoint", "small.h5", "--prompt", "x", "--tokenizer", "bytes"])
    }

    /// A tokenizer with a begin token: an empty prompt is that token; its end token ends the text.
    @Test func emptyPromptIsTheBeginToken() throws {
        let folder = try withCheckpoint()
        let zoo = try ZooStandard.zoo()
        let stored = try StoredModel(folder / "model.h5", in: zoo)
        let device = CPUDevice(threads: 1)
        let model = try stored.makeModel(on: device)
        let attention = try zoo.attention.entry("cpu").make(local: nil, over: nil)
        func run(_ tokenizer: any Tokenizer, _ prompt: String) throws -> TextGeneration.Outcome {
            func open(_ model: some LanguageModel) throws -> TextGeneration.Outcome {
                let tokens = TokenGeneration(try Sampler(seed: 5), maximumCount: 400)
                return try TextGeneration(tokens, tokenizer: tokenizer).run(
                    model, prompt: prompt, over: .one(attention, on: device)
                ) { _ in }
            }
            return try open(model)
        }
        let plain = try run(ByteTokenizer(), "a")
        let marked = try run(MarkedTokenizer(begin: 97, end: 256), "")
        #expect(marked.tokens == plain.tokens && marked.promptCount == 1 && marked.end == .maximumCount)
        let end = plain.tokens[30]
        let ended = try run(MarkedTokenizer(begin: 97, end: end), "")
        #expect(ended.end == .endToken && ended.tokens == Array(plain.tokens.prefix { $0 != end }))
        #expect(throws: RingZooError.self) { try run(ByteTokenizer(), "") }
    }

    /// Bytes with two of the ids declared special.
    private struct MarkedTokenizer: Tokenizer {
        let begin, end: Int32
        private let bytes = ByteTokenizer()

        init(begin: Int32, end: Int32) { (self.begin, self.end) = (begin, end) }

        var name: String { "marked" }
        var vocabularyCount: Int { bytes.vocabularyCount }
        var beginToken: Int32? { begin }
        var endToken: Int32? { end }
        var form: TokenizerForm { bytes.form }
        func encode(bytes text: UnsafeBufferPointer<UInt8>) -> [Int32] { bytes.encode(bytes: text) }
        func appendBytes(of token: Int32, to out: inout [UInt8]) { bytes.appendBytes(of: token, to: &out) }
    }
}
