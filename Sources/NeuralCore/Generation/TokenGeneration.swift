import AttentionCore
import TensorCore

/// Continues a sequence of tokens with any language model: the prompt in pieces, then one token at a time against the cache.
public struct TokenGeneration: Sendable {
    public var sampler: Sampler
    /// New tokens at most.
    public var maximumCount: Int
    /// Tokens that end the text; they are not handed out.
    public var stopTokens: Set<Int32>
    public var precision: Precision
    /// Prompt tokens that go through the model at a time: activations take memory for these, and not for the whole prompt.
    public var prefillCount = 2048

    public init(
        _ sampler: Sampler, maximumCount: Int, stopTokens: Set<Int32> = [], precision: Precision = .float32
    ) {
        self.sampler = sampler
        self.maximumCount = maximumCount
        self.stopTokens = stopTokens
        self.precision = precision
    }

    /// Why a text ended.
    public enum End: Sendable, Hashable {
        case maximumCount
        case stopToken(Int32)
        /// Who received the tokens wanted no more.
        case receiver
    }

    /// Hands out new tokens one by one; the receiver answers whether it wants more.
    ///
    /// Memory: keys and values of all tokens so far (up to twice that: room is doubled), and activations of `prefillCount` tokens.
    /// - Throws: `.usage` for an empty prompt or a token outside the vocabulary; what the model, the sampler and the receiver throw.
    public func run(
        _ model: some LanguageModel, prompt: [Int32], attention: any AttentionBackend, on device: any Device,
        _ receive: (Int32) throws -> Bool
    ) throws -> End {
        try check(prompt, vocabulary: model.vocabularySize)
        if maximumCount == 0 { return .maximumCount }
        var cache: KeyValueCache? = KeyValueCache()
        var position = 0
        func context(_ count: Int) -> SequenceContext {
            SequenceContext(
                positions: .contiguous(from: position, count: count), attention: attention, precision: precision,
                on: device)
        }
        func logits(_ tokens: ArraySlice<Int32>) throws -> [Double] {
            let row = Tensor(Array(tokens), [1, tokens.count], on: device)
            let last = try model.lastLogits(row, context(tokens.count), cache: &cache)
            try device.ledger.checkFailure()
            position += tokens.count
            return last.doubles
        }

        var rest = prompt[...]
        while rest.count > prefillCount {
            let piece = Array(rest.prefix(prefillCount))
            // No logits: the head would be computed for nothing.
            _ = try model.hidden(Tensor(piece, [1, piece.count], on: device), context(piece.count), cache: &cache)
            try device.ledger.checkFailure()
            position += piece.count
            rest = rest.dropFirst(piece.count)
        }
        for count in 1... {
            let token = try sampler.sample(logits(rest), position: position)
            if stopTokens.contains(token) { return .stopToken(token) }
            if try !receive(token) { return .receiver }
            if count == maximumCount { break }
            rest = [token]
        }
        return .maximumCount
    }

    private func check(_ prompt: [Int32], vocabulary: Int) throws {
        if maximumCount < 0 {
            throw RingZooError(.usage, "\(maximumCount) new tokens were asked for", tried: ["0 or more would work"])
        }
        if prefillCount < 1 { fatalError("TokenGeneration: prefillCount is \(prefillCount)") }
        if prompt.isEmpty {
            throw RingZooError(
                .usage, "the prompt has no tokens, and a model needs one to go on from",
                tried: ["a prompt of at least one token would work"])
        }
        if let index = prompt.firstIndex(where: { $0 < 0 || Int($0) >= vocabulary }) {
            throw RingZooError(
                .usage, "token \(prompt[index]) at place \(index) of the prompt is not in the model's vocabulary",
                tried: ["0 to \(vocabulary - 1) would work"])
        }
    }
}
