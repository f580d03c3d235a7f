import DataCore
import DistributedCore
import NeuralCore
import TensorCore

/// Continues a text: tokenizer, token loop and stop texts together.
public struct TextGeneration: Sendable {
    public var tokens: TokenGeneration
    public let tokenizer: any Tokenizer
    private let stopStrings: StopStrings

    /// The tokenizer's end token, where it has one, becomes a stop token.
    /// - Throws: `.usage` for an empty stop text.
    public init(_ tokens: TokenGeneration, tokenizer: any Tokenizer, stops: [String] = []) throws {
        self.tokens = tokens
        self.tokenizer = tokenizer
        stopStrings = try StopStrings(stops)
        if let end = tokenizer.endToken { self.tokens.stopTokens.insert(end) }
    }

    /// Why a text ended.
    public enum End: Sendable, Hashable {
        case maximumCount
        case endToken
        /// The stop text that was complete.
        case stop(String)
    }

    /// What was written.
    public struct Outcome: Sendable, Hashable {
        /// The new text, without the stop text and what came after it.
        public var text: String
        /// The new tokens, those of the stop text included.
        public var tokens: [Int32]
        public var promptCount: Int
        public var end: End
    }

    /// Hands out the new text in pieces of whole characters as they are certain; joined they are the outcome's text.
    ///
    /// A text that ends inside a character (the count was reached) ends in U+FFFD. Every rank makes the same text and calls `emit`.
    ///
    /// - Parameter prompt: that of rank 0 counts, and needs to be there alone.
    /// - Throws: `.usage` for an empty prompt where the tokenizer has no begin token, `.config` where the model has no room for the
    ///   tokenizer's ids; what the token loop and `emit` throw.
    public func run(
        _ model: some LanguageModel, prompt: String, over ranks: GenerationRanks, _ emit: (String) throws -> Void
    ) throws -> Outcome {
        try tokenizer.requireFit(modelVocabularyCount: model.vocabularySize)
        let promptTokens = try tokens(of: prompt, ranks.mesh.world)
        var outcome = Outcome(text: "", tokens: [], promptCount: promptTokens.count, end: .maximumCount)
        var decoder = StreamingDecoder(tokenizer)
        var scanner = stopStrings
        /// True while there is no stop text.
        func pass(_ piece: String) throws -> Bool {
            let (text, found) = scanner.append(piece)
            if !text.isEmpty { try emit(text) }
            outcome.text += text
            if let found { outcome.end = .stop(found) }
            return found == nil
        }
        let end = try tokens.run(model, prompt: promptTokens, over: ranks) { token in
            outcome.tokens.append(token)
            return try pass(decoder.append(token))
        }
        if end == .receiver { return outcome }
        if case .stopToken = end { outcome.end = .endToken }
        if try pass(decoder.finish()) {
            let rest = scanner.finish()
            if !rest.isEmpty { try emit(rest) }
            outcome.text += rest
        }
        return outcome
    }

    private func tokens(of prompt: String, _ communicator: any Communicator) throws -> [Int32] {
        let own = communicator.rank == 0 ? [Tensor(try encoded(prompt), on: communicator.device)] : []
        return try communicator.broadcast(Message(own), from: 0).tensors[0].values(Int32.self)
    }

    private func encoded(_ prompt: String) throws -> [Int32] {
        let tokens = tokenizer.encode(prompt)
        if !tokens.isEmpty { return tokens }
        if let begin = tokenizer.beginToken { return [begin] }
        throw RingZooError(
            .usage, "the prompt is empty, and tokenizer \(tokenizer.name) has no token that begins a text",
            tried: ["a prompt of at least one character would work"])
    }
}
