import Foundation
import NeuralCore
import TensorCore
import Testing
import ZooCore

@testable import Llama

@Suite struct ConfigurationTests {
    private func decode(_ yaml: String, preset: String? = nil) throws -> LlamaConfiguration {
        let blueprint = try LlamaFamily().blueprint(preset: preset, fields: ConfigTree(yaml: yaml, source: "run.yaml"))
        return (blueprint as! LlamaBlueprint).configuration
    }

    private func refusal(_ yaml: String, preset: String? = nil) -> String {
        let error = #expect(throws: RingZooError.self) { try decode(yaml, preset: preset) }
        #expect(error?.code == .config)
        return error.map { "\($0)" } ?? ""
    }

    static let publishedCounts = [
        ("1b", 1_235_814_400), ("3b", 3_212_749_824), ("7b", 6_738_415_616), ("llama3-8b", 8_030_261_248),
        ("13b", 13_015_864_320), ("30b", 32_528_943_616), ("65b", 65_285_660_672), ("llama2-70b", 68_976_648_192),
    ]

    @Test(arguments: publishedCounts)
    func presetsHaveThePublishedCounts(_ preset: String, _ count: Int) throws {
        let blueprint = try LlamaFamily().blueprint(preset: preset, fields: .mapping([]))
        #expect(blueprint.parameterCount == count)
    }

    /// Ours, which nobody published: from the sizes by hand.
    @Test func ownPresetsHaveTheCountsOfTheirSizes() throws {
        // 2 V M + layers (2 M H D + 2 M Hkv D + 3 M F + 2 M) + M
        let counts = [
            "debug": 2 * 256 * 64 + 2 * (2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 192 + 128) + 64,
            "byte-25m": 2 * 256 * 512 + 8 * (4 * 512 * 512 + 3 * 512 * 1376 + 1024) + 512,
            "tiny-24m": 2 * 32_000 * 288 + 6 * (4 * 288 * 288 + 3 * 288 * 768 + 576) + 288,
            "110m": 32_000 * 768 + 12 * (4 * 768 * 768 + 3 * 768 * 2048 + 1536) + 768,
        ]
        for (preset, count) in counts {
            #expect(try LlamaFamily().blueprint(preset: preset, fields: .mapping([])).parameterCount == count)
        }
        #expect(Set(counts.keys).union(Self.publishedCounts.map(\.0)) == Set(LlamaFamily().presets))
    }

    @Test func presetsAreValidAndSmallestFirst() throws {
        let sizes = LlamaConfiguration.presets.map(\.configuration)
        for size in sizes { try size.check() }
        #expect(sizes.map(\.parameterCount) == sizes.map(\.parameterCount).sorted())
    }

    @Test func parameterShapesAreTheModels() throws {
        let device = CPUDevice(threads: 1)
        for tied in [false, true] {
            let configuration = LlamaConfiguration(
                width: 24, layers: 2, heads: 4, keyHeads: 2, headSize: 8, feedForward: 20, vocabulary: 11, tied: tied)
            let model = try Llama(configuration, on: device)
            let shapes = configuration.parameterShapes
            #expect(model.parameters.map(\.name) == shapes.map(\.name))
            #expect(model.parameters.map(\.tensor.shape) == shapes.map(\.shape))
            #expect(model.parameterCount == configuration.parameterCount)
        }
    }

    @Test func fieldsReadBackEqual() throws {
        var yarn = RotaryScaling.YaRN(factor: 16, originalLength: 4096)
        yarn.mscale = 0.707
        yarn.truncate = false
        let scalings: [RotaryScaling] = [
            .none, .linear(factor: 2.5), .dynamicNTK(factor: 4, length: 8192, originalLength: 2048), .yarn(yarn),
            .yarn(.init(factor: 4, originalLength: 100)), .llama3(.init(factor: 32)),
        ]
        var all = LlamaConfiguration.presets.map(\.configuration)
        for scaling in scalings {
            all.append(
                .init(
                    width: 96, layers: 3, heads: 6, keyHeads: 2, headSize: 18, feedForward: 50, vocabulary: 77,
                    tied: true, normEpsilon: 3.3e-7, ropeBase: 123_456.789, ropeScaling: scaling, context: 999))
        }
        for configuration in all {
            let yaml = LlamaBlueprint(configuration).fields.yaml
            #expect(try decode(yaml) == configuration, "\(yaml)")
        }
    }

    @Test func fieldsStandOverThePreset() throws {
        let plain = try decode("{}", preset: "7b")
        #expect(plain == LlamaConfiguration.presets.first { $0.name == "7b" }!.configuration)
        let changed = try decode("{layers: 2, tied: true, normEpsilon: 1e-5, context: 8192}", preset: "7b")
        var expected = plain
        (expected.layers, expected.tied, expected.normEpsilon, expected.context) = (2, true, 1e-5, 8192)
        #expect(changed == expected)
    }

    @Test func sizesThatFollowOthersFollowThemUnlessGiven() throws {
        #expect(try decode("{width: 1024}", preset: "byte-25m").headSize == 128)
        #expect(try decode("{width: 1024, headSize: 32}", preset: "byte-25m").headSize == 32)
        let heads = try decode("{heads: 16}", preset: "byte-25m")
        #expect((heads.headSize, heads.keyHeads) == (32, 16))
        #expect(try decode("{heads: 16, keyHeads: 4}", preset: "byte-25m").keyHeads == 4)
        let grouped = try decode("{heads: 8}", preset: "debug")
        #expect((grouped.headSize, grouped.keyHeads) == (8, 2))
        let own = try decode("{width: 32, layers: 1, heads: 4, feedForward: 64, vocabulary: 10}")
        #expect((own.headSize, own.keyHeads, own.tied, own.context) == (8, 4, false, 2048))
        #expect((own.normEpsilon, own.ropeBase, own.ropeScaling) == (1e-5, 10_000, .none))
    }

    @Test func ropeScalingStandsOverThePresets() throws {
        #expect(try decode("{ropeScaling: {factor: 8}}", preset: "1b").ropeScaling == .llama3(.init(factor: 8)))
        #expect(try decode("{ropeScaling: {kind: none}}", preset: "1b").ropeScaling == .none)
        #expect(try decode("{ropeScaling: {kind: linear, factor: 2}}", preset: "7b").ropeScaling == .linear(factor: 2))
        #expect(
            try decode("{ropeScaling: {kind: ntk, factor: 2, length: 99, originalLength: 9}}", preset: "7b").ropeScaling
                == .dynamicNTK(factor: 2, length: 99, originalLength: 9))
    }

    @Test func badFieldsAreRefusedByPlaceAndName() {
        #expect(
            refusal("width: 64\nlayer: 2", preset: "7b").contains(
                "run.yaml:2: unknown key model.layer; did you mean layers?"))
        #expect(refusal("{layers: 1}").contains("model.width is missing"))
        #expect(refusal("{layers: 0}", preset: "7b").contains("model.layers is \"0\""))
        #expect(refusal("{heads: 3}", preset: "7b").contains("not a multiple of heads 3"))
        #expect(
            refusal("{keyHeads: 3}", preset: "7b").contains(
                "run.yaml:1: llama: 32 heads are not a multiple of 3 keyHeads"))
        #expect(refusal("{headSize: 7}", preset: "7b").contains("head size 7"))
        #expect(refusal("{width: 9000000000000000000}", preset: "7b").contains("width is 9000000000000000000"))
        #expect(refusal("{ropeScaling: {kind: ramp}}", preset: "7b").contains("model.ropeScaling.kind is \"ramp\""))
        #expect(refusal("{ropeScaling: {kind: linear}}", preset: "7b").contains("model.ropeScaling.factor is missing"))
        #expect(refusal("{ropeScaling: {kind: linear, factor: 2, length: 3}}", preset: "7b").contains("unknown key"))
        let unknown = refusal("{}", preset: "7B")
        #expect(unknown.contains("did you mean 7b?") && unknown.contains("llama2-70b"))
    }

    /// transformers' frequencies, computed in float64, through the settings as `config.json` has them.
    @Test func inverseFrequenciesAreTransformers() throws {
        struct Setting: Decodable {
            var name: String
            var attention_factor: Double
            var inv_freq: [Double]
        }
        let path = fixtures("rotary/rope_scaling.json")
        let settings = try JSONDecoder().decode([Setting].self, from: Data(contentsOf: URL(fileURLWithPath: path)))
        guard case .sequence(let trees) = try ConfigTree(path: path).content else {
            Issue.record("not a list")
            return
        }
        var kinds: Set<String> = []
        for (setting, tree) in zip(settings, trees) {
            var section = try ConfigSection(tree, name: "")
            let context = try section.integer("max_position_embeddings")
            if setting.name.hasPrefix("longrope") {
                let error = #expect(throws: RingZooError.self) { try HuggingFaceRope(&section, context: context) }
                #expect(error?.message.contains("rope_type is \"longrope\"") == true)
                continue
            }
            var rope = try HuggingFaceRope(&section, context: context)
            if case .dynamicNTK(let factor, _, let original) = rope.scaling {
                let length = try section.integer("sequence_length")
                rope.scaling = .dynamicNTK(factor: factor, length: length, originalLength: original)
            }
            kinds.insert(setting.name.prefix { $0.isLetter || $0.isNumber }.lowercased())
            let embedding = try RotaryEmbedding(
                headSize: try section.integer("head_dim"), base: rope.base, scaling: rope.scaling)
            #expect(embedding.inverseFrequencies.count == setting.inv_freq.count, "\(setting.name)")
            for (found, expected) in zip(embedding.inverseFrequencies, setting.inv_freq) {
                #expect(abs(found - expected) <= 1e-13 * expected, "\(setting.name)")
            }
            #expect(abs(rope.scaling.attentionFactor - setting.attention_factor) <= 1e-14, "\(setting.name)")
        }
        #expect(kinds == ["default", "linear", "dynamic", "yarn", "llama3"])
    }
}
