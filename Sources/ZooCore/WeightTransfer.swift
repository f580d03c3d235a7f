import CheckpointCore
import DataCore
import Foundation
import TensorCore

/// Weights from other programs into checkpoints, and back. One tensor at a time is in memory; nothing appears half-written.
public enum WeightTransfer {
    /// What was moved.
    public struct Report: Sendable, Hashable {
        public var family: String
        /// The other program's form.
        public var exchange: String
        public var tensors: Int
        public var bytes: Int
    }

    /// Writes a checkpoint from a folder or file in another program's form.
    ///
    /// - Parameters:
    ///   - exchange: the form's name; nil for the first one that recognises the folder.
    ///   - tokenizer: goes into the checkpoint; nil leaves it without one.
    ///   - replacing: whether a file that is there already may be replaced.
    /// - Throws: `.usage` where `checkpoint` exists, `.missingInput`, `.corruptInput` and `.config` naming what does not fit.
    public static func importWeights(
        from path: String, to checkpoint: String, exchange name: String? = nil, tokenizer: (any Tokenizer)? = nil,
        replacing: Bool = false, in zoo: Zoo
    ) throws -> Report {
        let files = FileManager.default
        if !files.fileExists(atPath: path) { throw RingZooError(.missingInput, "\(path): no such file or folder") }
        if !replacing && files.fileExists(atPath: checkpoint) {
            throw RingZooError(
                .usage, "\(checkpoint) exists", tried: ["--force replaces it", "another name would work too"])
        }
        let (family, exchange) = try recognise(path, name, in: zoo)
        let (blueprint, tensors) = try exchange.read(path)
        var metadata = [CheckpointText.model: StoredModel.modelText(family, blueprint)]
        if let tokenizer {
            try tokenizer.requireFit(modelVocabularyCount: blueprint.vocabularySize)
            let encoder = JSONEncoder()
            encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
            metadata[CheckpointText.tokenizer] = String(decoding: try encoder.encode(tokenizer.form), as: UTF8.self)
        }
        try CheckpointWriter.save(checkpoint, tensors: tensors, metadata: metadata)
        return Report(family, exchange, tensors.map(\.info))
    }

    /// Writes the weights of a checkpoint (not the optimizer's state) as a folder in another program's form.
    ///
    /// The folder is written under a hidden name beside its own and renamed when it is complete.
    /// - Throws: `.usage` where the folder exists and is not empty or the family has no such form, `.inputOutput`.
    public static func exportWeights(
        from checkpoint: String, to folder: String, exchange name: String? = nil, maximumShardSize: Int, in zoo: Zoo
    ) throws -> Report {
        let stored = try StoredModel(checkpoint, in: zoo)
        let exchanges = stored.family.exchanges
        guard let exchange = name.map({ name in exchanges.first { $0.name == name } }) ?? exchanges.first else {
            throw RingZooError(
                .usage, "'\(stored.family.name)' models have no form named '\(name ?? "")'",
                tried: ["known: \(exchanges.map(\.name).joined(separator: ", "))"])
        }
        let target = URL(fileURLWithPath: folder).standardizedFileURL
        let files = FileManager.default
        if let content = try? files.contentsOfDirectory(atPath: target.path), let first = content.min() {
            throw RingZooError(
                .usage, "\(folder) is not empty (\(first))", tried: ["a new or an empty folder would work"])
        }
        let parent = target.deletingLastPathComponent()
        let process = ProcessInfo.processInfo.processIdentifier
        let partial = parent.appendingPathComponent(".\(target.lastPathComponent).\(process).ringzoo-partial")
        do {
            try files.createDirectory(at: partial, withIntermediateDirectories: true)
        } catch {
            throw RingZooError(.inputOutput, "\(folder): the folder cannot be made", underlying: error)
        }
        do {
            try exchange.write(
                partial.path, fields: stored.blueprint.fields, tensors: stored.reader,
                maximumShardSize: maximumShardSize)
            // Replaces an empty folder too, and nothing else.
            if rename(partial.path, target.path) != 0 {
                throw RingZooError(
                    .inputOutput, "\(folder): the folder cannot be put in place: \(String(cString: strerror(errno)))")
            }
        } catch {
            try? files.removeItem(at: partial)
            throw error
        }
        let weights = stored.reader.tensors.filter { $0.name.hasPrefix(CheckpointText.weights) }
        return Report(stored.family, exchange, weights)
    }

    /// The bytes of `5GB`, `512MiB` or `4096`; throws `.usage` for any other text.
    public static func byteCount(_ text: String) throws -> Int {
        if let count = parseByteCount(text) { return count }
        throw RingZooError(.usage, "'\(text)' is no number of bytes", tried: ["5GB, 512MiB or 4096 would work"])
    }

    private static func recognise(
        _ path: String, _ name: String?, in zoo: Zoo
    ) throws -> (family: any ModelFamily, exchange: any WeightExchange) {
        var all: [(family: any ModelFamily, exchange: any WeightExchange)] = []
        for family in try zoo.models.names.map({ try zoo.models.entry($0) }) {
            all += family.exchanges.map { (family, $0) }
        }
        let known = all.map { "\($0.family.name) from \($0.exchange.name)" }.joined(separator: ", ")
        let candidates = all.filter { name == nil || $0.exchange.name == name }
        if candidates.isEmpty {
            throw RingZooError(
                .usage, name.map { "no form is named '\($0)'" } ?? "no form of weights is registered",
                tried: known.isEmpty ? [] : ["known: \(known)"])
        }
        if let found = candidates.first(where: { $0.exchange.recognises(path) }) { return found }
        // The only one there is says best what it misses.
        if candidates.count == 1 { return candidates[0] }
        throw RingZooError(.corruptInput, "\(path) is in no form that is known here", tried: ["known: \(known)"])
    }
}

extension WeightTransfer.Report {
    fileprivate init(_ family: any ModelFamily, _ exchange: any WeightExchange, _ tensors: [TensorInfo]) {
        self.init(
            family: family.name, exchange: exchange.name, tensors: tensors.count,
            bytes: tensors.reduce(0) { $0 + $1.byteCount })
    }
}
