import Foundation
import TensorCore
import Testing
import ZooCore

/// What is wrong with a command is said with its place and with what would work, under the exit code that fits.
@Suite struct BadInputTests {
    struct Case: Sendable, CustomTestStringConvertible {
        var name: String
        /// Put in place of a line of the config.
        var line: (of: String, new: String)?
        var settings: [String] = []
        var code: Int32
        /// What must be said.
        var words: [String]

        var testDescription: String { name }
    }

    static let cases = [
        Case(
            name: "unknown key", line: ("  rate: 1e-3", "  rat: 1e-3"), code: 78,
            words: ["run.yaml:8", "rat", "did you mean rate"]),
        Case(
            name: "unknown section", line: ("optimizer:", "optimiser:"), code: 78, words: ["run.yaml:7", "optimizer"]),
        Case(
            name: "unknown key of the model", settings: ["model.layer=3"], code: 78,
            words: ["--set model.layer=3", "layers"]),
        Case(
            name: "value of the wrong kind", line: ("  batch: 2", "  batch: many"), code: 78,
            words: ["run.yaml:6", "batch", "many"]),
        Case(name: "not YAML", line: ("  batch: 2", "  batch: [2"), code: 78, words: ["run.yaml"]),
        Case(name: "unknown model", settings: ["model.name=lama"], code: 78, words: ["\"lama\"", "registered: llama"]),
        Case(
            name: "unknown preset", settings: ["model.preset=8b"], code: 78, words: ["\"8b\"", "llama3-8b", "debug"]),
        Case(
            name: "unknown backend", settings: ["attention.backend=rnig"], code: 78,
            words: ["\"rnig\"", "did you mean ring", "blas", "cpu"]),
        Case(
            name: "unknown tokenizer", settings: ["data.tokenizer=byte"], code: 78,
            words: ["\"byte\"", "bytes", "gpt2"]),
        Case(name: "unknown data", settings: ["data.kind=txt"], code: 78, words: ["\"txt\"", "text", "jsonl"]),
        Case(
            name: "unknown optimizer", settings: ["optimizer.name=adam"], code: 78, words: ["\"adam\"", "adamw", "sgd"]),
        Case(
            name: "unknown schedule", settings: ["optimizer.schedule=cosin"], code: 78,
            words: ["\"cosin\"", "cosine", "linear", "constant"]),
        Case(
            name: "ranks without a ring", settings: ["parallel.sequence=2"], code: 78,
            words: ["2 ranks", "ring with local: cpu"]),
        Case(
            name: "a ring over a ring", settings: ["attention.backend=ring", "attention.local=ring"], code: 78,
            words: ["attention.local is 'ring'", "cpu"]),
        Case(
            name: "a feature that does not exist", settings: ["attention.block=64"], code: 78,
            words: ["attention.block", "only auto works"]),
        Case(
            name: "more data ranks than rows", settings: ["parallel.data=3"], code: 78,
            words: ["parallel.data is 3", "a batch has 2 rows", "data.batch of at least 3"]),
        Case(
            name: "tensor ranks that do not divide the heads", settings: ["parallel.tensor=3"], code: 78,
            words: ["parallel.tensor is 3", "its 2 heads", "its 1 keyHeads", "a divisor of 2"]),
        Case(
            name: "tokenizer larger than the vocabulary", settings: ["model.vocabulary=200"], code: 78,
            words: ["256", "200"]),
        Case(
            name: "heads that do not divide", settings: ["model.keyHeads=3"], code: 78,
            words: ["2 heads", "3 keyHeads"]),
        Case(name: "corpus missing", settings: ["data.path=nowhere.txt"], code: 66, words: ["nowhere.txt"]),
        Case(name: "corpus not named", settings: ["data.path=[]"], code: 78, words: ["data.path"]),
        Case(name: "corpus empty", settings: ["data.path=EMPTY"], code: 65, words: ["EMPTY: the file is empty"]),
        Case(
            name: "corpus shorter than the context", settings: ["data.path=SHORT"], code: 65,
            words: ["SHORT", "one row needs 33", "more text"]),
        Case(name: "corpus is a folder", settings: ["data.path=FOLDER"], code: 66, words: ["FOLDER: a folder"]),
        Case(
            name: "weights missing", settings: ["model={from: nowhere.h5}"], code: 66, words: ["nowhere.h5"]),
        Case(name: "weights are a text", settings: ["model={from: SHORT}"], code: 65, words: ["SHORT"]),
        Case(name: "weights are empty", settings: ["model={from: EMPTY}"], code: 65, words: ["EMPTY"]),
        Case(
            name: "budget too small", settings: ["memory.budget=64KiB"], code: 1,
            words: ["this run does not fit", "memory.budget is 64.0 KiB", "a larger memory.budget"]),
        Case(
            name: "more than any machine has",
            settings: [
                "model.width=16384", "model.heads=128", "model.keyHeads=128", "model.feedForward=65536",
                "model.layers=64",
            ], code: 1,
            words: ["this run does not fit", "TiB", "for optimizer state", "a smaller model", "--unplanned"]),
        Case(
            name: "loss not finite", settings: ["optimizer.rate=1e30", "optimizer.clip=none", "optimizer.warmup=0"],
            code: 1,
            words: ["error: step ", "is not finite", "run.onNonFinite: skip"]),
    ]

    @Test(arguments: cases) func isRefused(_ wrong: Case) throws {
        let folder = try TrainingFolder()
        let names = [
            "EMPTY": try folder.write("", to: "empty.txt"), "SHORT": try folder.write("Ship ahoy!\n", to: "short.txt"),
            "FOLDER": folder.path,
        ]
        func named(_ text: String) -> String {
            names.reduce(text) { $0.replacingOccurrences(of: $1.key, with: $1.value) }
        }
        let config = try folder.config("run")
        if let (old, new) = wrong.line {
            let text = try String(contentsOfFile: config, encoding: .utf8)
            try #require(text.contains(old))
            try folder.write(text.replacingOccurrences(of: old, with: new), to: "run.yaml")
        }
        let result = try TrainingProgram.run(
            ["train", config] + wrong.settings.flatMap { ["--set", named($0)] }, in: folder)
        #expect(result.code == wrong.code, "\(result.said)")
        #expect(result.said.contains("error: "))
        for words in wrong.words { #expect(result.said.contains(named(words)), "\(result.said)") }
        #expect(folder.steps("run").isEmpty)
        if result.said.contains("does not fit") { #expect(!FileManager.default.fileExists(atPath: folder.file("run"))) }
    }

    /// Who knows better starts anyway, and then the ledger ends the run.
    @Test func aPlanCanBeOverruled() throws {
        let folder = try TrainingFolder()
        let arguments = ["train", try folder.config("run"), "--set", "memory.budget=64KiB", "--unplanned"]
        let result = try TrainingProgram.run(arguments, in: folder)
        #expect(result.code == 1)
        for words in ["out of memory budget", "65536 bytes", "memory.rematerialise: block"] {
            #expect(result.said.contains(words), "\(result.said)")
        }
    }

    @Test(arguments: [
        (["train"], 64, "CONFIG"), (["train", "run.yaml", "--rank", "2"], 64, "--rank"),
        (["train", "nowhere.yaml"], 66, "nowhere.yaml"), (["trian", "run.yaml"], 64, "trian"),
    ])
    func aCommandThatMakesNoSenseIsRefused(_ arguments: [String], _ code: Int32, _ words: String) throws {
        let result = try TrainingProgram.run(arguments, in: TrainingFolder())
        #expect(result.code == code, "\(result.said)")
        #expect(result.said.lowercased().contains(words.lowercased()), "\(result.said)")
    }

    @Test func variablesThatMakeNoSenseAreRefused() throws {
        let folder = try TrainingFolder()
        for (name, value) in [("RINGZOO_THREADS", "many"), ("RINGZOO_THREADS", "0"), ("RINGZOO_KERNELS", "fast")] {
            let result = try TrainingProgram.run(
                ["train", try folder.config("run")], in: folder, environment: [name: value])
            #expect(result.code == 78, "\(result.said)")
            #expect(result.said.contains("\(name) is '\(value)'"))
        }
    }
}
