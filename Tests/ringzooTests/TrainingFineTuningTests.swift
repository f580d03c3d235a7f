import CheckpointCore
import DataCore
import Foundation
import TensorCore
import Testing
import ZooCore
import ZooStandard

/// Runs that start from the weights of a checkpoint.
@Suite struct TrainingFineTuningTests {
    /// A config with `model: { from: ... }`; the model's other keys may follow.
    private func config(_ folder: TrainingFolder, from path: String, _ model: String = "") throws -> String {
        try folder.write(
            """
            model: { from: \(path)\(model.isEmpty ? "" : ", \(model)") }
            data: { path: \(trainingCorpus), context: 32, batch: 2 }
            run: { directory: \(folder.file("tuned")), steps: 3, evaluateEvery: 1, checkpointEvery: none }
            attention: { backend: cpu }

            """, to: "tuned.yaml")
    }

    private func run(_ config: String, _ settings: String...) throws -> TrainingRun {
        try TrainingRun(RunConfig.load(path: config, overrides: settings), in: ZooStandard.zoo(), threads: 1)
    }

    @Test func theStartIsTheStoredModel() throws {
        let folder = try TrainingFolder()
        let (stored, _) = try folder.run("first", "run.evaluateEvery=20").logged()
        let path = folder.checkpoint("first", step: 20)
        // At a rate of almost nothing the model after a step is the stored one to the last digits shown.
        let (_, log) = try run(config(folder, from: path), "optimizer.rate=1e-20").logged()
        #expect(abs(log.evaluations[0] - stored.validationLoss!) < 1e-9)
        // A new run: its own schedule, from step 1, with an optimizer that remembers nothing.
        #expect(log.resumed == nil)
        #expect(log.steps.map(\.report.step) == [1, 2, 3])
        let sizes = try StoredModel(folder.checkpoint("tuned", step: 3), in: ZooStandard.zoo()).blueprint.fields
        #expect(try sizes == StoredModel(path, in: ZooStandard.zoo()).blueprint.fields)
    }

    @Test func tuningGoesOnFromItsOwnCheckpoints() throws {
        let folder = try TrainingFolder()
        try folder.run("first").logged()
        let file = try config(folder, from: folder.checkpoint("first", step: 20))
        let (_, straight) = try run(file, "run.directory=\(folder.file("straight"))").logged()
        try run(file, "run.stopAfter=1").logged()
        let (_, log) = try run(file).logged(resume: true)
        #expect(log.resumed?.step == 1)
        #expect(log.steps.map(\.report.loss) == straight.steps.dropFirst().map(\.report.loss))
    }

    @Test func theTokenizerComesWithTheWeights() throws {
        let folder = try TrainingFolder()
        // A byte-pair tokenizer of the 256 bytes and two pairs; the files are gone when the weights are used.
        let files = try TrainingFolder()
        let tiktoken = try files.write(
            ((0..<256).map { Data([UInt8($0)]) } + [Data("th".utf8), Data("the".utf8)]).enumerated().map {
                "\($1.base64EncodedString()) \($0)\n"
            }.joined(), to: "tiny.tiktoken")
        let made = try folder.run("first", "data.tokenizer=gpt2:\(tiktoken)", "model.vocabulary=512", "run.steps=2")
        let form = made.tokenizer.form
        #expect(form.kind == "byte-pair")
        try made.logged()
        try FileManager.default.removeItem(atPath: tiktoken)

        let tuning = try run(config(folder, from: folder.checkpoint("first", step: 2)))
        #expect(tuning.tokenizer.form == form)
        try tuning.logged()
        // The config that is written back means the same tokenizer.
        let again = try RunConfig.load(path: folder.file("tuned/config.yaml"))
        #expect(again == tuning.config)
        #expect(try TrainingRun(again, in: ZooStandard.zoo()).tokenizer.form == form)
    }

    @Test func aTokenizerFromNowhereIsRefused() throws {
        let folder = try TrainingFolder()
        let error = trainingFault { _ = try folder.run("run", "data.tokenizer=checkpoint") }
        #expect(error?.code == .config)
        #expect(error?.description.contains("model.from") == true)
        #expect(error?.description.contains("bytes") == true)
    }

    @Test func otherSizesAreRefusedWithBothShapes() throws {
        let folder = try TrainingFolder()
        try folder.run("first", "run.steps=1").logged()
        let path = folder.checkpoint("first", step: 1)
        let result = try TrainingProgram.run(
            ["train", try config(folder, from: path, "feedForward: 96")], in: folder)
        #expect(result.code == 78, "\(result.said)")
        #expect(
            result.said.contains(
                "model.layers.0.feed_forward.gate_proj.weight is [64, 32], but the model's is [96, 32]"))
        #expect(folder.steps("tuned").isEmpty)
        for (keys, words) in [("name: gpt", "model.name is 'gpt'"), ("preset: debug", "model.preset is 'debug'")] {
            let error = trainingFault { _ = try run(config(folder, from: path, keys)) }
            #expect(error?.code == .config)
            #expect(error?.message.contains(words) == true)
        }
    }

    @Test func aCheckpointOfAnotherModelIsNotGoneOnWith() throws {
        let folder = try TrainingFolder()
        try folder.run("run", "run.stopAfter=1").logged()
        let before = try folder.contents("run")
        let result = try TrainingProgram.run(
            [
                "train", try folder.config("run"), "--resume", "--set", "model.layers=3", "--set",
                "model.feedForward=96",
            ],
            in: folder)
        #expect(result.code == 78, "\(result.said)")
        #expect(
            result.said.contains(
                "model.layers.0.feed_forward.gate_proj.weight is [64, 32], but the model's is [96, 32]"))
        #expect(result.said.contains("model.layers.2."))
        #expect(try trainingDifferences(folder.contents("run"), before) == [])
        // Nor with another optimizer's state.
        let optimizer = try TrainingProgram.run(
            ["train", try folder.config("run"), "--resume", "--set", "optimizer.name=sgd"], in: folder)
        #expect(optimizer.code == 65, "\(optimizer.said)")
        #expect(optimizer.said.contains("momentum.embedding.weight is missing"))
        #expect(try trainingDifferences(folder.contents("run"), before) == [])
    }
}
