import TensorCore

extension Dataset {
    /// Plain text: one long stream of tokens, all of it learned.
    ///
    /// Each file is a document, followed by the tokenizer's end token where it has one. The last `validation` part of the
    /// stream is kept for evaluation, in windows that do not overlap. Training reads windows at random offsets, each drawn
    /// from (seed, row number); an epoch counts as many of them as would cover the text once.
    /// `packing` has no meaning for text and is refused.
    ///
    /// Throws `.missingInput` for a file that is not there, `.corruptInput` for a text that is empty or shorter than one
    /// context. Memory: 4 bytes a token, and once the largest file.
    public static func text(paths: [String], tokenizer: any Tokenizer, options: DatasetOptions) throws -> Dataset {
        try options.check()
        guard !options.packing else {
            throw RingZooError(
                .config, "data.packing is for data made of records; text fills every row",
                tried: ["packing: false, or kind: jsonl, would work"])
        }
        var stream = TokenStream()
        for path in try requirePaths(paths) {
            let bytes = try readFile(path)
            guard !bytes.isEmpty else { throw RingZooError(.corruptInput, "\(path): the file is empty") }
            stream.append(document: tokenizer.encode(bytes: bytes) + [tokenizer.endToken].compactMap { $0 })
        }
        let count = stream.tokens.count
        let evaluationCount = Int((Double(count) * options.validation).rounded(.down))
        let trainingCount = count - evaluationCount
        let name = paths.joined(separator: ", ")
        guard trainingCount > options.context else {
            throw RingZooError(
                .corruptInput,
                "\(name): the training part has \(trainingCount) of \(count) tokens, one row needs \(options.context + 1)",
                tried: ["a context of at most \(trainingCount - 1), or more text, would work"])
        }
        if options.validation > 0, evaluationCount < 2 {
            throw RingZooError(
                .corruptInput,
                "\(name): a validation part of \(options.validation) is \(evaluationCount) of \(count) tokens, "
                    + "evaluation needs 2", tried: ["validation: 0 turns evaluation off; a larger part would work"])
        }
        func windows(_ range: Range<Int>, stride: Int) -> TokenWindows {
            TokenWindows(
                stream, range: range, context: options.context, stride: stride, resetPositions: options.resetPositions)
        }
        return Dataset(
            options: options, training: windows(0..<trainingCount, stride: 1), trainingTokenCount: trainingCount,
            evaluation: evaluationCount > 0 ? windows(trainingCount..<count, stride: options.context) : nil,
            evaluationTokenCount: evaluationCount, order: .independent,
            rowsPerEpoch: (trainingCount - 1) / options.context)
    }
}

func requirePaths(_ paths: [String]) throws -> [String] {
    guard paths.isEmpty else { return paths }
    throw RingZooError(.config, "data.path is missing: this kind of data is read from files")
}
