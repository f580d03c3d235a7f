import BLASAttention
import CPUAttention
import DataCore
import GatherAttention
import Llama
import MPICommunicator
import MeshAttention
import NeuralCore
import RingAttention
import TreeAttention
import UlyssesAttention
import ZooCore

/// The list of everything in the tree.
public enum ZooStandard {
    /// A zoo with all models, backends, tokenizers, data sets and optimizers of this repository.
    public static func zoo() throws -> Zoo {
        var zoo = Zoo()

        try zoo.models.register("llama", LlamaFamily())

        try zoo.attention.register("cpu", CPUAttentionProvider())
        try zoo.attention.register("blas", BLASAttentionProvider())
        try zoo.attention.register("ring", RingAttentionProvider())
        try zoo.attention.register("gather", GatherAttentionProvider())
        try zoo.attention.register("ulysses", UlyssesAttentionProvider())
        try zoo.attention.register(
            "mesh", MeshAttentionProvider(heads: UlyssesAttentionProvider(), ring: RingAttentionProvider()))
        try zoo.attention.register("tree", TreeAttentionProvider())

        try zoo.links.register("threads", ThreadLinkProvider())
        try zoo.links.register("mpi", MPILinkProvider())

        try zoo.tokenizers.register(
            "bytes", TokenizerProvider("one token per byte, 256 in all") { _ in ByteTokenizer() })
        try zoo.tokenizers.register(
            "gpt2",
            TokenizerProvider("byte-level BPE; gpt2:FOLDER with the vocabulary and merges, or gpt2:FILE.tiktoken") {
                path in try BytePairTokenizer.load(path: path ?? ".")
            })

        try zoo.datasets.register(
            "text",
            DatasetProvider("text files as one stream of tokens") { paths, tokenizer, options in
                try Dataset.text(paths: paths, tokenizer: tokenizer, options: options)
            })
        try zoo.datasets.register(
            "jsonl",
            DatasetProvider("JSON lines with prompt and completion; the loss is the completion's") {
                paths, tokenizer, options in
                try Dataset.records(paths: paths, tokenizer: tokenizer, options: options)
            })

        try zoo.optimizers.register(
            "adamw",
            OptimizerProvider("Adam with decoupled weight decay") { section, model in
                var settings = AdamW.Settings()
                settings.beta1 = section.beta1
                settings.beta2 = section.beta2
                settings.weightDecay = section.weightDecay
                return AdamW(for: model, settings)
            })
        try zoo.optimizers.register(
            "sgd",
            OptimizerProvider("gradient descent with momentum (beta1)") { section, model in
                SGD(for: model, momentum: section.beta1, weightDecay: section.weightDecay)
            })
        return zoo
    }
}
