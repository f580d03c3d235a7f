import Foundation
import TensorCore

extension Dataset {
    /// JSON lines with the string fields `prompt` and `completion`; only the completion is learned.
    ///
    /// Each record is a document: the tokens of the prompt, those of the completion, and the tokenizer's end token where it
    /// has one. Other fields and blank lines are passed over. The last `validation` part of the records is kept for
    /// evaluation. With `packing` a row holds as many whole records as fit, without it one; the rest is padding.
    ///
    /// Throws `.missingInput` for a file that is not there and `.corruptInput`, with the line, for a line that is not JSON,
    /// lacks a field, has nothing to learn, or does not fit the context. Memory: about 4 bytes a token.
    public static func records(paths: [String], tokenizer: any Tokenizer, options: DatasetOptions) throws -> Dataset {
        try options.check()
        var records: [Record] = []
        for path in try requirePaths(paths) {
            records += try readRecords(path, tokenizer: tokenizer, context: options.context)
        }
        let name = paths.joined(separator: ", ")
        guard !records.isEmpty else { throw RingZooError(.corruptInput, "\(name): no records") }
        let evaluationCount = Int((Double(records.count) * options.validation).rounded(.down))
        let trainingCount = records.count - evaluationCount
        if options.validation > 0, evaluationCount == 0 {
            throw RingZooError(
                .corruptInput,
                "\(name): a validation part of \(options.validation) of \(records.count) records is none",
                tried: ["validation: 0 turns evaluation off; a larger part would work"])
        }
        func rows(_ part: ArraySlice<Record>, seed: UInt64?) -> RecordRows {
            RecordRows(
                Array(part), context: options.context, packing: options.packing,
                resetPositions: options.resetPositions, seed: seed)
        }
        func tokenCount(_ part: ArraySlice<Record>) -> Int { part.reduce(0) { $0 + $1.tokens.count } }
        let (training, evaluation) = (records[..<trainingCount], records[trainingCount...])
        return Dataset(
            options: options, training: rows(training, seed: options.seed), trainingTokenCount: tokenCount(training),
            evaluation: evaluation.isEmpty ? nil : rows(evaluation, seed: nil),
            evaluationTokenCount: tokenCount(evaluation), order: .shuffled)
    }
}

private func readRecords(_ path: String, tokenizer: any Tokenizer, context: Int) throws -> [Record] {
    var records: [Record] = []
    for (number, line) in lines(of: try readFile(path)) where !line.allSatisfy({ $0 == 0x20 || $0 == 0x09 }) {
        let place = "\(path):\(number)"
        let fields = try jsonObject(line, place)
        let prompt = tokenizer.encode(try stringField("prompt", of: fields, place))
        let completion = tokenizer.encode(try stringField("completion", of: fields, place))
        let tokens = prompt + completion + [tokenizer.endToken].compactMap { $0 }
        let record = Record(tokens: tokens, promptCount: prompt.count)
        guard record.hasTarget else {
            throw RingZooError(.corruptInput, "\(place): nothing to learn, the completion is too short")
        }
        guard record.length <= context else {
            throw RingZooError(
                .corruptInput,
                "\(place): the record takes \(record.length) places of a row, the context has \(context)",
                tried: ["a context of \(record.length), or a shorter record, would work; nothing is cut silently"])
        }
        records.append(record)
    }
    return records
}

private func jsonObject(_ line: ArraySlice<UInt8>, _ place: String) throws -> [String: Any] {
    do {
        if let fields = try JSONSerialization.jsonObject(with: Data(line)) as? [String: Any] { return fields }
    } catch {
        throw RingZooError(.corruptInput, "\(place): not JSON", underlying: error)
    }
    throw RingZooError(.corruptInput, "\(place): not a JSON object with the fields prompt and completion")
}

private func stringField(_ name: String, of fields: [String: Any], _ place: String) throws -> String {
    if let text = fields[name] as? String { return text }
    let found = fields.keys.sorted().joined(separator: ", ")
    throw RingZooError(
        .corruptInput,
        fields[name] == nil
            ? "\(place): no field \"\(name)\"; the line has \(found.isEmpty ? "no fields" : found)"
            : "\(place): the field \"\(name)\" is not a string")
}
