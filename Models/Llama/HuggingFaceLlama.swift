import CheckpointCore
import Foundation
import TensorCore
import ZooCore

/// LLaMA-family models as Hugging Face's transformers keeps them: a folder with `config.json` and safetensors, single or sharded.
///
/// Weights pass through byte by byte in their stored type; conversion happens when they are loaded into a model. The order of
/// the rows of q and k is the same on both sides (half against half), so nothing is permuted.
public struct HuggingFaceLlama: WeightExchange {
    public init() {}

    public var name: String { "huggingface" }

    /// True for a folder, or a file in a folder, whose `config.json` says `"model_type": "llama"`.
    public func recognises(_ path: String) -> Bool {
        guard let tree = try? ConfigTree(path: configPath(of: path)),
            case .scalar(let type, _)? = tree["model_type"]?.content
        else { return false }
        return type == "llama"
    }

    /// The blueprint, and the tensors under our names (`model.` and the parameter's name), which stream from the mapped files.
    ///
    /// Frequencies that old files hold as `rotary_emb.inv_freq` are skipped: they follow from the config. So is the head of a model
    /// that says that its head is tied, if it equals the embedding.
    /// - Throws: `.config` for a config that asks for what `Llama` does not compute; `.corruptInput` for tensors that do not fit the
    ///   config, before any is read; what `SafetensorsReader` throws.
    public func read(_ path: String) throws -> (blueprint: any ModelBlueprint, tensors: [TensorSource]) {
        let configuration = try LlamaConfiguration(huggingFace: ConfigTree(path: configPath(of: path)))
        let files = try SafetensorsReader(path)
        let names = try Self.names()
        if let (tensor, type) = files.unsupported.min(by: { $0.key < $1.key }) {
            throw RingZooError(
                .corruptInput, "\(path): tensor \(tensor) is stored as \(type); quantised weights are not read",
                tried: ["a folder with weights in F32, BF16 or F16 would work"])
        }
        var stored = files.tensors.filter { !$0.name.hasSuffix(".rotary_emb.inv_freq") }
        if configuration.tied, let head = stored.firstIndex(where: { $0.name == "lm_head.weight" }) {
            try checkTied(files, path)
            stored.remove(at: head)
        }
        let wanted = configuration.parameterShapes.map { name, shape in
            TensorInfo(name: names.theirs(CheckpointText.weights + name)!, shape: shape, dtype: .float32)
        }
        let differences = weightDifferences(wanted: wanted, stored: stored)
        if !differences.isEmpty {
            let isHeadMissing = differences.first?.hasPrefix("lm_head.weight ") == true && differences.count == 1
            throw RingZooError(
                .corruptInput, "\(path): config.json and weights do not fit: \(differences.count) tensors differ",
                tried: shortened(differences)
                    + (isHeadMissing
                        ? ["\"tie_word_embeddings\": true in config.json, if the head is the embedding"] : []))
        }
        let sources = wanted.map { tensor in
            let info = stored.first { $0.name == tensor.name }!
            let ours = TensorInfo(name: names.ours(tensor.name)!, shape: info.shape, dtype: info.dtype)
            return TensorSource(ours) { sink in try files.bytes(of: tensor.name).withUnsafeBytes { try sink($0) } }
        }
        return (LlamaBlueprint(configuration), sources)
    }

    /// Writes `config.json` and the tensors named `model.`; others (an optimizer's) stay behind.
    ///
    /// Token ids of special tokens belong to the tokenizer, which is not written here: `config.json` names none.
    /// - Throws: `.config` where the form has no words for the model, or tensors are not those of the fields; `.usage` where the
    ///   folder holds a model already; `.inputOutput`.
    public func write(
        _ path: String, fields: ConfigTree, tensors: any TensorCollection, maximumShardSize: Int
    ) throws {
        var section = try ConfigSection(modelFields: fields)
        let configuration = try LlamaConfiguration(&section)
        try section.finish()
        let names = try Self.names()
        let wanted = configuration.parameterShapes.map { name, shape in
            TensorInfo(name: CheckpointText.weights + name, shape: shape, dtype: .float32)
        }
        var stored: [String: TensorSource] = [:]
        for source in tensors.sources() where source.info.name.hasPrefix(CheckpointText.weights) {
            stored[source.info.name] = source
        }
        let differences = weightDifferences(
            wanted: wanted, stored: stored.values.map(\.info).sorted { $0.name < $1.name })
        if !differences.isEmpty {
            throw RingZooError(
                .config, "the tensors are not those of this model: \(differences.count) differ",
                tried: shortened(differences))
        }
        let sources = wanted.map { tensor in
            let source = stored[tensor.name]!
            let theirs = TensorInfo(
                name: names.theirs(tensor.name)!, shape: source.info.shape, dtype: source.info.dtype)
            return TensorSource(theirs, stream: source.stream)
        }
        let config = try configuration.huggingFace(weights: sources[0].info.dtype)
        try SafetensorsWriter.writeFolder(path, tensors: sources, maximumShardSize: maximumShardSize)
        do {
            try Data(config.utf8).write(to: URL(fileURLWithPath: path + "/config.json"), options: .atomic)
        } catch {
            throw RingZooError(.inputOutput, "\(path)/config.json cannot be written", underlying: error)
        }
    }

    /// Their names and ours.
    static func names() throws -> NameMap {
        let layer = "model.layers.{n}."
        return try NameMap([
            ("model.embed_tokens.weight", "model.embedding.weight"),
            (layer + "input_layernorm.weight", layer + "attention_norm.weight"),
            (layer + "self_attn.q_proj.weight", layer + "attention.q_proj.weight"),
            (layer + "self_attn.k_proj.weight", layer + "attention.k_proj.weight"),
            (layer + "self_attn.v_proj.weight", layer + "attention.v_proj.weight"),
            (layer + "self_attn.o_proj.weight", layer + "attention.o_proj.weight"),
            (layer + "post_attention_layernorm.weight", layer + "feed_forward_norm.weight"),
            (layer + "mlp.gate_proj.weight", layer + "feed_forward.gate_proj.weight"),
            (layer + "mlp.up_proj.weight", layer + "feed_forward.up_proj.weight"),
            (layer + "mlp.down_proj.weight", layer + "feed_forward.down_proj.weight"),
            ("model.norm.weight", "model.norm.weight"),
            ("lm_head.weight", "model.head.weight"),
        ])
    }

    /// A tied head that differs would be lost without a word.
    private func checkTied(_ files: SafetensorsReader, _ path: String) throws {
        guard files.tensors.contains(where: { $0.name == "model.embed_tokens.weight" }) else { return }
        let head = try files.bytes(of: "lm_head.weight")
        let embedding = try files.bytes(of: "model.embed_tokens.weight")
        let isEqual = head.withUnsafeBytes { head in embedding.withUnsafeBytes { head.elementsEqual($0) } }
        if !isEqual {
            throw RingZooError(
                .corruptInput,
                "\(path): config.json says that the head is tied, but lm_head.weight is not the embedding",
                tried: ["\"tie_word_embeddings\": false keeps both"])
        }
    }

    private func configPath(of path: String) -> String {
        let url = URL(fileURLWithPath: path)
        let isFile = path.hasSuffix(".safetensors")
        return (isFile ? url.deletingLastPathComponent() : url).appendingPathComponent("config.json").path
    }
}
