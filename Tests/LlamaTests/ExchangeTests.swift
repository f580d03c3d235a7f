import CheckpointCore
import Foundation
import NeuralCore
import TensorCore
import Testing
import ZooCore

@testable import Llama

@Suite struct ExchangeTests {
    let exchange = HuggingFaceLlama()

    /// A folder with a changed copy of a fixture: `edit` gets the text of `config.json`.
    private func copy(
        _ name: String, edit: (String) -> String = { $0 }, tensors change: ([TensorSource]) -> [TensorSource] = { $0 }
    ) throws -> TemporaryFolder {
        let folder = try TemporaryFolder()
        let config = try String(contentsOfFile: huggingFaceFolder(name) + "/config.json", encoding: .utf8)
        try edit(config).write(toFile: folder.path + "/config.json", atomically: true, encoding: .utf8)
        let sources = try SafetensorsReader(huggingFaceFolder(name)).sources()
        try SafetensorsWriter.write(folder.path + "/model.safetensors", tensors: change(sources))
        return folder
    }

    private func copyTensors(
        _ name: String, _ change: ([TensorSource]) -> [TensorSource]
    ) throws -> TemporaryFolder { try copy(name, tensors: change) }

    private func refusal(_ folder: TemporaryFolder, _ code: RingZooError.Code) -> String {
        let error = #expect(throws: RingZooError.self) { try exchange.read(folder.path) }
        #expect(error?.code == code)
        return error.map { "\($0)" } ?? ""
    }

    private func contents(_ tensors: any TensorCollection) throws -> [TensorInfo: [UInt8]] {
        var contents: [TensorInfo: [UInt8]] = [:]
        for info in tensors.tensors { contents[info] = try tensors.bytes(of: info.name).withUnsafeBytes { Array($0) } }
        return contents
    }

    @Test(arguments: goldenModels, [Int.max, 20_000])
    func importThenExportGivesTheSameBytes(_ name: String, _ shardSize: Int) throws {
        let (blueprint, sources) = try exchange.read(huggingFaceFolder(name))
        let folder = try TemporaryFolder()
        // Through a checkpoint, as the command line does it: the stored type is kept there too.
        let checkpoint = folder.path + "/model.h5"
        try CheckpointWriter.save(checkpoint, tensors: sources, metadata: [:])
        let reader = try CheckpointReader(checkpoint)
        let out = folder.path + "/out"
        try exchange.write(out, fields: blueprint.fields, tensors: reader, maximumShardSize: shardSize)

        let before = try contents(SafetensorsReader(huggingFaceFolder(name)))
        let after = try contents(SafetensorsReader(out))
        #expect(before == after && before.count == blueprintTensorCount(blueprint))
        let files = try FileManager.default.contentsOfDirectory(atPath: out)
        #expect(files.contains("model.safetensors.index.json") == (shardSize < Int.max))
        // The config goes round as well.
        #expect(exchange.recognises(out))
        #expect(try exchange.read(out).blueprint as! LlamaBlueprint == blueprint as! LlamaBlueprint)
    }

    private func blueprintTensorCount(_ blueprint: any ModelBlueprint) -> Int {
        (blueprint as! LlamaBlueprint).configuration.parameterShapes.count
    }

    @Test func bothFormsOfConfigAreRead() throws {
        func read(_ name: String) throws -> LlamaConfiguration {
            (try exchange.read(huggingFaceFolder(name)).blueprint as! LlamaBlueprint).configuration
        }
        #expect(
            try read("llama-mha")
                == .init(
                    width: 32, layers: 2, heads: 4, feedForward: 64, vocabulary: 96, normEpsilon: 1e-6, context: 128))
        #expect(
            try read("llama-gqa-llama3-rope")
                == .init(
                    width: 32, layers: 2, heads: 4, keyHeads: 2, headSize: 16, feedForward: 48, vocabulary: 96,
                    ropeScaling: .llama3(.init(originalLength: 64)), context: 512))
        #expect(
            try read("llama-mqa-tied")
                == .init(
                    width: 48, layers: 2, heads: 4, keyHeads: 1, feedForward: 64, vocabulary: 128, tied: true,
                    ropeBase: 1e6, context: 128))
    }

    @Test func missingKeysHaveTransformersDefaults() throws {
        let lines = ["num_key_value_heads", "rms_norm_eps", "rope_theta", "max_position", "tie_word", "rope_scaling"]
        let folder = try copy("llama-mha") { text in
            text.split(separator: "\n").filter { line in !lines.contains { line.contains($0) } }.joined(separator: "\n")
        }
        let read = try exchange.read(folder.path).blueprint as! LlamaBlueprint
        #expect(
            read.configuration
                == .init(
                    width: 32, layers: 2, heads: 4, feedForward: 64, vocabulary: 96, normEpsilon: 1e-6, context: 2048))
    }

    @Test(arguments: [
        ("\"attention_bias\": false", "\"attention_bias\": true", "attention_bias is true"),
        ("\"hidden_act\": \"silu\"", "\"hidden_act\": \"gelu\"", "hidden_act is \"gelu\""),
        ("\"model_type\": \"llama\"", "\"model_type\": \"mistral\"", "model_type is \"mistral\""),
        ("\"attention_dropout\": 0.0", "\"attention_dropout\": 0.1", "attention_dropout is not 0"),
        ("\"vocab_size\": 96", "\"vocab_size\": 96, \"mlp_bias\": true", "mlp_bias is true"),
        ("\"vocab_size\": 96", "\"vocab_size\": 96, \"quantization_config\": {}", "quantization_config"),
        ("\"vocab_size\": 96", "\"vocab_size\": 0", "vocab_size is \"0\""),
        ("\"rope_scaling\": null", "\"rope_scaling\": {\"type\": \"su\", \"factor\": 2}", "rope_type is \"su\""),
        ("\"rope_scaling\": null", "\"rope_scaling\": {\"type\": \"longrope\"}", "\"longrope\""),
        ("\"rope_scaling\": null", "\"rope_scaling\": {\"type\": \"linear\"}", "rope_scaling.factor is missing"),
        (
            "\"rope_scaling\": null",
            "\"rope_scaling\": null, \"rope_parameters\": {\"rope_type\": \"default\", \"partial_rotary_factor\": 0.5}",
            "part of a head stays unturned"
        ),
        (
            "\"rope_scaling\": null",
            "\"rope_scaling\": {\"type\": \"linear\", \"factor\": 2}, \"rope_parameters\": {\"rope_theta\": 5}",
            "something else than rope_scaling"
        ),
        ("\"num_attention_heads\": 4", "\"num_attention_heads\": 5", "not a multiple of num_attention_heads 5"),
    ])
    func whatIsNotComputedIsRefused(_ from: String, _ to: String, _ words: String) throws {
        let folder = try copy("llama-mha") { text in
            #expect(text.contains(from))
            return text.replacingOccurrences(of: from, with: to)
        }
        let text = refusal(folder, .config)
        #expect(text.contains(words) && text.contains("config.json:"), "\(text)")
    }

    @Test func tensorsThatDoNotFitAreNamedBeforeAnyIsRead() throws {
        let name = "model.layers.1.mlp.up_proj.weight"
        let missing = try copyTensors("llama-mha") { tensors in tensors.filter { $0.info.name != name } }
        #expect(refusal(missing, .corruptInput).contains("\(name) [64, 32] is missing"))

        let unexpected = try copyTensors("llama-mha") { tensors in
            tensors + [
                TensorSource(
                    TensorInfo(name: "model.layers.2.mlp.up_proj.weight", shape: [1], dtype: .float32),
                    bytes: [0, 0, 0, 0])
            ]
        }
        #expect(refusal(unexpected, .corruptInput).contains("model.layers.2.mlp.up_proj.weight [1] is not expected"))

        let sizes = try copy(
            "llama-mha", edit: { $0.replacingOccurrences(of: "\"vocab_size\": 96", with: "\"vocab_size\": 97") })
        let text = refusal(sizes, .corruptInput)
        #expect(text.contains("model.embed_tokens.weight is [96, 32], but the model's is [97, 32]"))
        #expect(text.contains("2 tensors differ"))

        let headless = try copyTensors("llama-mha") { tensors in tensors.filter { $0.info.name != "lm_head.weight" } }
        let advice = refusal(headless, .corruptInput)
        #expect(advice.contains("lm_head.weight [96, 32] is missing") && advice.contains("tie_word_embeddings"))
    }

    @Test func frequencyBuffersAreSkipped() throws {
        let folder = try copyTensors("llama-mha") { tensors in
            tensors + [
                TensorSource(
                    TensorInfo(name: "model.layers.0.self_attn.rotary_emb.inv_freq", shape: [4], dtype: .float32),
                    bytes: [UInt8](repeating: 0, count: 16))
            ]
        }
        #expect(try exchange.read(folder.path).tensors.count == 2 * 9 + 3)
    }

    @Test func aTiedHeadMayBeInTheFileIfItIsTheEmbedding() throws {
        func withHead(_ change: @escaping @Sendable (inout [UInt8]) -> Void) throws -> TemporaryFolder {
            try copyTensors("llama-mqa-tied") { tensors in
                let embedding = tensors.first { $0.info.name == "model.embed_tokens.weight" }!
                let head = TensorSource(TensorInfo(name: "lm_head.weight", shape: [128, 48], dtype: .float32)) { sink in
                    var bytes: [UInt8] = []
                    try embedding.stream { bytes += $0 }
                    change(&bytes)
                    try bytes.withUnsafeBytes { try sink($0) }
                }
                return tensors + [head]
            }
        }
        let equal = try withHead { _ in }
        let (_, tensors) = try exchange.read(equal.path)
        #expect(!tensors.contains { $0.info.name.contains("head") })
        #expect(refusal(try withHead { $0[5] ^= 1 }, .corruptInput).contains("lm_head.weight is not the embedding"))
    }

    @Test func onlyLlamaIsRecognised() throws {
        for name in goldenModels { #expect(exchange.recognises(huggingFaceFolder(name))) }
        #expect(exchange.recognises(huggingFaceFolder("llama-mha") + "/model.safetensors"))
        #expect(!exchange.recognises(fixtures("rotary")))
        let other = try copy("llama-mha") {
            $0.replacingOccurrences(of: "\"model_type\": \"llama\"", with: "\"model_type\": \"gpt2\"")
        }
        #expect(!exchange.recognises(other.path))
    }

    @Test func rotarySettingsGoRound() throws {
        var yarn = YaRN(factor: 4, originalLength: 32)
        yarn.attentionFactor = 1.25
        yarn.truncate = false
        var configuration = LlamaConfiguration(
            width: 8, layers: 1, heads: 2, feedForward: 8, vocabulary: 8, context: 128)
        for scaling in [
            RotaryScaling.none, .linear(factor: 2.5), .yarn(yarn), .llama3(.init(factor: 3)),
            .dynamicNTK(factor: 2, length: 128, originalLength: 128),
        ] {
            configuration.ropeScaling = scaling
            let text = try configuration.huggingFace(weights: .bfloat16)
            #expect(text.contains("\"torch_dtype\": \"bfloat16\""))
            #expect(try LlamaConfiguration(huggingFace: ConfigTree(yaml: text, source: "config.json")) == configuration)
            // Strict JSON, not only what our reader takes.
            #expect(throws: Never.self) { try JSONSerialization.jsonObject(with: Data(text.utf8)) }
        }
        configuration.ropeScaling = .dynamicNTK(factor: 2, length: 512, originalLength: 128)
        #expect(throws: RingZooError.self) { try configuration.huggingFace(weights: .float32) }
    }

    @Test func exportRefusesTensorsOfAnotherModel() throws {
        let (_, sources) = try exchange.read(huggingFaceFolder("llama-mha"))
        let other = LlamaConfiguration(width: 32, layers: 3, heads: 4, feedForward: 64, vocabulary: 96)
        let folder = try TemporaryFolder()
        let written = try WrittenTensors(sources)
        let error = #expect(throws: RingZooError.self) {
            try exchange.write(folder.path + "/out", fields: other.fields, tensors: written, maximumShardSize: .max)
        }
        #expect(error.map { "\($0)" }?.contains("model.layers.2.attention_norm.weight [32] is missing") == true)
        #expect(!FileManager.default.fileExists(atPath: folder.path + "/out"))
    }
}

private typealias YaRN = RotaryScaling.YaRN
