import Foundation
import TensorCore
import Testing

@testable import ZooCore

private let shortest = """
    model: { name: llama, preset: byte-25m }
    data: { path: corpus.txt }
    run: { directory: runs/first, steps: 1000 }
    """

struct RunConfigTests {
    private func config(_ yaml: String, _ overrides: [String] = []) throws -> RunConfig {
        let tree = try overrides.reduce(ConfigTree(yaml: yaml, source: "run.yaml")) {
            try ConfigTree(override: $1).over($0)
        }
        return try RunConfig(tree: tree)
    }

    @Test func defaultsAreThoseOfTheTable() throws {
        let config = try config(shortest)
        #expect(config.model.name == "llama" && config.model.preset == "byte-25m" && config.model.from == nil)
        #expect(config.attention.backend == "auto" && config.attention.local == "auto")
        #expect(config.attention.layout == .auto && config.attention.block == .auto)
        #expect(config.attention.strategy == "auto" && config.attention.headRanks == .auto)
        #expect(config.parallel.shares == nil)
        #expect(config.parallel.sequence == 1 && config.parallel.data == 1 && config.parallel.tensor == 1)
        #expect(!config.parallel.shardParameters && config.parallel.link == .auto && config.parallel.deadline == 60)
        #expect(config.data.kind == "text" && config.data.paths == ["corpus.txt"] && config.data.tokenizer == "bytes")
        #expect(config.data.context == .auto && config.data.batch == 8 && config.data.accumulate == 1)
        #expect(config.data.validation == 0.1 && !config.data.packing && config.data.resetPositions)
        #expect(config.optimizer.name == "adamw" && config.optimizer.rate == 3e-4)
        #expect(config.optimizer.schedule == "cosine" && config.optimizer.warmup == .share(0.02))
        #expect(config.optimizer.finalRate == 0.1 && config.optimizer.weightDecay == 0.1)
        #expect(config.optimizer.beta1 == 0.9 && config.optimizer.beta2 == 0.95 && config.optimizer.clip == 1)
        #expect(config.precision == .float32)
        #expect(config.memory.rematerialise == .none && config.memory.feedForwardChunk == .auto)
        #expect(config.memory.lossChunk == .auto && config.memory.budget == nil)
        #expect(config.run.directory == "runs/first" && config.run.steps == 1000 && config.run.stopAfter == nil)
        #expect(config.run.evaluateEvery == 100 && config.run.checkpointEvery == 200 && config.run.keep == 3)
        #expect(config.run.seed == 1 && config.run.onNonFinite == .stop)
    }

    @Test func everyKeyIsRead() throws {
        let config = try config(everything)
        #expect(config.model.name == "llama" && config.model.from == "base.h5")
        #expect(config.attention.backend == "ring" && config.attention.local == "cpu")
        #expect(config.attention.layout == .striped && config.attention.block == .auto)
        #expect(config.attention.strategy == "ring" && config.attention.headRanks == .count(2))
        #expect(config.parallel.shares == [2, 1, 1, 3])
        #expect(config.parallel.sequence == 4 && config.parallel.link == .threads && config.parallel.deadline == 2.5)
        #expect(config.data.kind == "jsonl" && config.data.paths == ["a.jsonl", "no"])
        #expect(config.data.tokenizerNameAndPath.name == "gpt2")
        #expect(config.data.tokenizerNameAndPath.path == "files/gpt2.tiktoken")
        #expect(config.data.context == .count(4096) && config.data.batch == 2 && config.data.accumulate == 4)
        #expect(config.data.validation == 0 && config.data.packing && !config.data.resetPositions)
        #expect(config.optimizer.name == "sgd" && config.optimizer.rate == 1e-4)
        #expect(config.optimizer.schedule == "linear" && config.optimizer.warmup == .steps(50))
        #expect(config.optimizer.finalRate == 0 && config.optimizer.weightDecay == 0)
        #expect(config.optimizer.beta1 == 0.8 && config.optimizer.beta2 == 0.99 && config.optimizer.clip == nil)
        #expect(config.precision == .bf16)
        #expect(config.memory.rematerialise == .block && config.memory.feedForwardChunk == .count(512))
        #expect(config.memory.lossChunk == .count(1024) && config.memory.budget == 512 << 20)
        #expect(config.run.stopAfter == 7 && config.run.evaluateEvery == nil && config.run.checkpointEvery == 25)
        #expect(config.run.keep == 9 && config.run.seed == .max)
    }

    @Test(arguments: [shortest, everything]) func resolvedConfigReadsBackEqual(yaml: String) throws {
        let first = try config(yaml)
        let again = try config(first.yaml)
        #expect(again == first, "\(first.yaml)")
        #expect(again.yaml == first.yaml)
    }

    @Test func keysOfTheResolvedConfigAreThoseOfTheTable() throws {
        let places = try config(shortest).tree.places()
        let sections = Dictionary(grouping: places.keys.filter { $0.contains(".") }) { $0.prefix { $0 != "." } }
        #expect(
            sections.mapValues(\.count) == [
                "model": 3, "attention": 6, "parallel": 7, "data": 9, "optimizer": 9, "memory": 4, "run": 8,
            ])
    }

    @Test func modelFieldsStayRawAndLieOverThePreset() throws {
        let config = try config(shortest, ["model.layers=6", "model.tied=no"])
        let preset = try ConfigTree(yaml: "{layers: 2, width: 64}", source: "byte-25m")
        var section = try ConfigSection(modelFields: config.model.fields.over(preset))
        #expect(try section.integer("layers") == 6)
        #expect(try section.integer("width") == 64)
        let message = configMessage { try section.finish() }
        #expect(message.contains("--set model.tied=no: unknown key model.tied"))
        let mistyped = configMessage {
            var section = try ConfigSection(modelFields: ConfigTree(yaml: "{prset: tiny}", source: "run.yaml"))
            _ = try section.integer("layers", default: 1)
            try section.finish()
        }
        #expect(mistyped.contains("unknown key model.prset; did you mean preset?"))
        #expect(try section.flag("tied", default: true) == false)
        try section.finish()
    }

    @Test func checkpointMayNameTheModel() throws {
        let run = "run: {directory: d, steps: 1}"
        #expect(try config("model: {from: base.h5}\n\(run)").model.name == nil)
        #expect(
            configMessage { try config("model: {preset: tiny}\n\(run)") }.contains("run.yaml:1: model.name is missing"))
    }

    @Test func placesTellWhereAKeyWasWritten() throws {
        let config = try config(shortest, ["attention.backend=ring"])
        #expect(config.place(of: "run.steps")?.description == "run.yaml:3")
        #expect(config.place(of: "attention.backend")?.description == "--set attention.backend=ring")
        #expect(config.place(of: "attention.local") == nil)
        let message = configMessage { try self.config("model: {name: a}\nrun: {steps: 3}", ["run.steps=4"]) }
        #expect(message.hasPrefix("run.yaml:2: run.directory is missing"))
    }

    @Test(arguments: [
        ("data.contxt=5", "unknown key data.contxt; did you mean context?"),
        ("optmizer.rate=1", "unknown key optmizer; did you mean optimizer?"),
        ("attention.backend=[a]", "attention.backend is a list; a text would work"),
        ("attention.layout=ziczac", "one of auto, contiguous, zigzag, striped would work; did you mean zigzag?"),
        ("attention.block=0", "attention.block is \"0\"; auto or a whole number of at least 1 would work"),
        ("precision=fp32", "one of float32, bf16 would work; did you mean float32?"),
        (
            "parallel.shares=[1, 0]",
            "parallel.shares has \"0\" in it; a list of 1 whole number of at least 1 would work"
        ),
        ("parallel.shares=[2, 1]", "parallel.shares has 2 numbers; a list of 1 whole number of at least 1 would work"),
        ("parallel.shares=2", "parallel.shares is \"2\"; a list of 1 whole number of at least 1 would work"),
        ("attention.headRanks=0", "attention.headRanks is \"0\"; auto or a whole number of at least 1 would work"),
        ("parallel.sequence=0", "a whole number of at least 1 would work"),
        ("parallel.deadline=0", "a number above 0.0 would work"),
        ("data.validation=1", "a number of at least 0.0 and below 1.0 would work"),
        ("optimizer.rate=fast", "optimizer.rate is \"fast\"; a number above 0.0 would work"),
        ("optimizer.warmup=1.5", "a share of the steps below 1 or a whole number of steps would work"),
        ("optimizer.finalRate=2", "a number from 0.0 to 1.0 would work"),
        ("memory.rematerialise=blocks", "one of none, block would work; did you mean block?"),
        ("memory.budget=lots", "none or a number of bytes such as 536870912 or 512MiB would work"),
        ("run.steps=none", "run.steps is \"none\"; a whole number of at least 1 would work"),
        ("run=5", "run must be a section of keys, not \"5\""),
        ("run.onNonFinite=ignore", "one of stop, skip would work"),
    ]) func badValueIsNamed(override: String, expected: String) throws {
        let message = configMessage { try config(shortest, [override]) }
        #expect(message.hasPrefix("--set \(override): ") && message.contains(expected), "\(message)")
    }

    @Test(arguments: [
        ("attention.block=256", "attention.block: only auto works")
    ]) func missingFeatureIsRefused(override: String, expected: String) throws {
        let message = configMessage { try config(shortest, [override]) }
        #expect(message.hasPrefix("--set \(override): \(expected)"), "\(message)")
    }

    @Test func warmupCountsStepsOrAShareOfThem() throws {
        #expect(try config(shortest, ["optimizer.warmup=1"]).optimizer.warmup == .steps(1))
        #expect(try config(shortest, ["optimizer.warmup=.5"]).optimizer.warmup == .share(0.5))
        #expect(OptimizerSection.Warmup.share(0.02).steps(of: 1000) == 20)
        #expect(OptimizerSection.Warmup.steps(50).steps(of: 1000) == 50)
    }

    @Test func shortRunsEvaluateAndSaveEveryStep() throws {
        let config = try config(shortest, ["run.steps=3"])
        #expect(config.run.evaluateEvery == 1 && config.run.checkpointEvery == 1)
    }

    @Test func fileIsReadWithItsOverrides() throws {
        let path = FileManager.default.temporaryDirectory.appendingPathComponent("\(UUID().uuidString).yaml").path
        try shortest.write(toFile: path, atomically: true, encoding: .utf8)
        defer { try? FileManager.default.removeItem(atPath: path) }
        let config = try RunConfig.load(path: path, overrides: ["run.steps=5", "run.steps=1_0"])
        #expect(config.run.steps == 10)
        #expect(config.place(of: "data.path")?.description == "\(path):2")
        let error = #expect(throws: RingZooError.self) { try RunConfig.load(path: path + ".absent") }
        #expect(error?.code == .missingInput)
    }
}

private let everything = """
    model:
      name: llama
      from: base.h5
      layers: 12
      heads: [1, 2]
      rope: {base: 1e4, scaled: no}
      note: "no"
    attention: {backend: ring, local: cpu, layout: striped, block: auto, strategy: ring, headRanks: 2}
    parallel: {sequence: 4, data: 1, tensor: 1, shardParameters: off, link: threads, deadline: 2.5, shares: [2, 1, 1, 3]}
    data:
      kind: jsonl
      path: [a.jsonl, no]
      tokenizer: gpt2:files/gpt2.tiktoken
      context: 4_096
      batch: 2
      accumulate: 4
      validation: 0
      packing: yes
      resetPositions: false
    optimizer:
      name: sgd
      rate: 1e-4
      schedule: linear
      warmup: 50
      finalRate: 0
      weightDecay: 0
      beta1: 0.8
      beta2: .99
      clip: none
    precision: bf16
    memory: {rematerialise: block, feedForwardChunk: 512, lossChunk: 1024, budget: 512MiB}
    run:
      directory: "runs/with space: #1"
      steps: 100
      stopAfter: 7
      evaluateEvery: none
      checkpointEvery: 25
      keep: 9
      seed: 18446744073709551615
      onNonFinite: stop
    """
