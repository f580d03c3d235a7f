import ArgumentParser
import CheckpointCore
import TensorCore
import ZooCore
import ZooStandard

struct CheckpointCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "checkpoint", abstract: "Look into checkpoints, verify them, and exchange weights.",
        discussion: "Example: ringzoo checkpoint inspect runs/first/checkpoints/step-00001000.h5",
        subcommands: [
            CheckpointInspectCommand.self, CheckpointVerifyCommand.self, CheckpointImportCommand.self,
            CheckpointExportCommand.self,
        ])
}

struct CheckpointInspectCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "inspect", abstract: "List what a checkpoint, safetensors or HDF5 file holds.",
        discussion: """
            Example: ringzoo checkpoint inspect model.h5 --json

            Headers are checked, tensor bytes are not: 'verify' does that. With --json there is one object: path, form, tensors \
            (name, dtype, shape, bytes), metadata, refused, tensorBytes, elements.
            """)

    @Argument(help: "A checkpoint, an HDF5 file, a safetensors file, or a folder of those.") var file: String
    @Flag(help: "Print one JSON object and nothing else.") var json = false

    /// Characters of a metadata text that the table shows: a tokenizer has megabytes.
    private static let shownText = 2000

    func run() throws {
        let stored = try StoredTensors(file)
        let elements = stored.tensors.reduce(0) { $0 + $1.shape.reduce(1, *) }
        if json {
            return try Output.json([
                "path": file, "form": stored.form.rawValue, "metadata": stored.texts, "refused": stored.refused,
                "tensorBytes": stored.byteCount, "elements": elements,
                "tensors": stored.tensors.map {
                    ["name": $0.name, "dtype": $0.dtype.rawValue, "shape": $0.shape, "bytes": $0.byteCount]
                        as [String: Any]
                },
            ])
        }
        for (name, text) in stored.texts.sorted(by: { $0.key < $1.key }) {
            if text.count > Self.shownText {
                Output.write("\(name): \(byteText(text.utf8.count)) of text\n")
            } else {
                Output.write("\(name):\n")
                for line in text.split(separator: "\n") { Output.write("    \(line)\n") }
            }
        }
        let width = stored.tensors.map(\.name.count).max() ?? 0
        for tensor in stored.tensors {
            Output.write(
                "\(padded(tensor.name, width))  \(padded(tensor.dtype.rawValue, 9)) \(padded("\(tensor.shape)", 20)) \(leading(byteText(tensor.byteCount), 12))\n"
            )
        }
        for (name, why) in stored.refused.sorted(by: { $0.key < $1.key }) {
            Output.write("\(name): not read: \(why)\n")
        }
        Output.write(
            "\(stored.form.rawValue), \(grouped(stored.tensors.count)) tensors, \(grouped(elements)) values, \(byteText(stored.byteCount))\n"
        )
    }
}

struct CheckpointVerifyCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "verify", abstract: "Check every sum of checkpoints.",
        discussion: """
            Example: ringzoo checkpoint verify runs/first/checkpoints/step-00001000.h5

            Reads every byte. Ends with 65 and the part at fault for the first file that is damaged.
            """)

    @Argument(help: "Checkpoints.") var files: [String]

    func run() throws {
        for file in files {
            if file.hasSuffix(".safetensors") {
                throw RingZooError(
                    .usage, "\(file): the safetensors format has no sums, so nothing can be verified",
                    tried: ["'ringzoo checkpoint inspect' checks its header"])
            }
            let reader = try CheckpointReader(file)
            let bytes = reader.tensors.reduce(0) { $0 + $1.byteCount }
            let texts = reader.metadata.keys.sorted().joined(separator: ", ")
            Output.write(
                """
                \(file) is whole
                    header, manifest, HDF5 structure and \(reader.metadata.count) texts (\(texts)): SHA-256
                    \(grouped(reader.tensors.count)) tensors, \(byteText(bytes)): CRC-32C each, and HDF5 lists the same\n
                """)
        }
    }
}

struct CheckpointImportCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "import", abstract: "Make a checkpoint from another program's weights.",
        discussion: """
            Example: ringzoo checkpoint import Llama-3.2-1B/ model.h5

            Numbers are kept in the type they are stored in. Without --tokenizer the checkpoint has none, and 'generate' asks \
            for one.
            """)

    @Argument(help: "The other program's folder.") var folder: String
    @Argument(help: "The checkpoint to write.") var output: String
    @Option(help: "NAME[:PATH] of the tokenizer that goes into the checkpoint: bytes, gpt2:FOLDER.") var tokenizer:
        String?
    @Option(help: "The form the folder is in, such as huggingface; recognised where left out.") var exchange: String?
    @Flag(help: "Replace the checkpoint where it is there already.") var force = false

    func run() throws {
        let zoo = try ZooStandard.zoo()
        let report = try WeightTransfer.importWeights(
            from: folder, to: output, exchange: exchange,
            tokenizer: try tokenizer.map { try zoo.tokenizer(named: $0) }, replacing: force, in: zoo)
        Terminal.note(
            "\(report.family) from \(report.exchange): wrote \(report.tensors) tensors, \(byteText(report.bytes)), to \(output)"
        )
    }
}

struct CheckpointExportCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "export", abstract: "Write a checkpoint's weights in another program's form.",
        discussion: """
            Example: ringzoo checkpoint export model.h5 my-model/ --max-shard-size 5GB

            Weights only: the optimizer's state stays behind. The folder appears complete or not at all.
            """)

    @Argument(help: "The checkpoint.") var checkpoint: String
    @Argument(help: "The folder to write; new or empty.") var folder: String
    @Option(help: "Bytes of tensors in one file at most: 5GB, 512MiB.") var maxShardSize = "5GB"
    @Option(help: "The form to write.") var exchange = "huggingface"

    func run() throws {
        let report = try WeightTransfer.exportWeights(
            from: checkpoint, to: folder, exchange: exchange,
            maximumShardSize: WeightTransfer.byteCount(maxShardSize), in: ZooStandard.zoo())
        Terminal.note(
            "\(report.family) to \(report.exchange): wrote \(report.tensors) tensors, \(byteText(report.bytes)), to \(folder)"
        )
    }
}
