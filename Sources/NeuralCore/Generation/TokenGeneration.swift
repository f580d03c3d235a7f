import DistributedCore
import TensorCore

/// Continues a sequence of tokens with any language model, on any number of ranks: the prompt in pieces, then one token at a time
/// against the cache.
public struct TokenGeneration: Sendable {
    public var sampler: Sampler
    /// New tokens at most.
    public var maximumCount: Int
    /// Tokens that end the text; they are not handed out.
    public var stopTokens: Set<Int32>
    public var precision: Precision
    /// Prompt tokens that go through the model on a rank at a time: activations take memory for these, and not for the whole prompt.
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

    /// Hands out new tokens one by one; the receiver answers whether it wants more, the same on every rank.
    ///
    /// A token is drawn on one rank and told to the others. (All could draw it; but the logits of processors with other kernels differ
    /// in their last bits, and a text that goes two ways would do so in silence. It is one message for all layers'.)
    ///
    /// Memory of a rank: its part of the weights; with sharded parameters, two layers whole. Keys and values of its share of all
    /// tokens, activations of `prefillCount` tokens, and one layer's key/value blocks that the prompt's attention holds.
    /// - Throws: `.usage` for an empty prompt or a token outside the vocabulary; what the model, the sampler and the receiver throw.
    public func run(
        _ model: some LanguageModel, prompt: [Int32], over ranks: GenerationRanks, _ receive: (Int32) throws -> Bool
    ) throws -> End {
        try check(prompt, vocabulary: model.vocabularySize)
        if maximumCount == 0 { return .maximumCount }
        let mesh = ranks.mesh
        let pieces = pieces(of: prompt, ranks: mesh.sequence.size)
        var text = ShardedSequence(model, over: ranks, precision: precision, room: room(for: pieces, ranks))
        func draw(_ states: Tensor?) throws -> Int32 {
            let token = try text.lastLogits(of: states).map { try sampler.sample($0.doubles, position: text.count) }
            let message = Message([], integers: token.map { [Int($0)] } ?? [])
            let speaker = mesh.worldRank(sequence: text.speaker)
            return Int32(try mesh.world.broadcast(message, from: speaker).integers[0])
        }

        var states: Tensor?
        for piece in pieces { states = try text.prefill(piece) }
        for count in 1... {
            let token = try draw(states)
            if stopTokens.contains(token) { return .stopToken(token) }
            if try !receive(token) { return .receiver }
            if count == maximumCount { break }
            states = try text.decode(token)
        }
        return .maximumCount
    }

    private func pieces(of prompt: [Int32], ranks: Int) -> [ArraySlice<Int32>] {
        let length = prefillCount * ranks
        return stride(from: 0, to: prompt.count, by: length).map { prompt[$0..<min($0 + length, prompt.count)] }
    }

    /// Tokens that this rank will keep, no more new ones counted than are likely to come.
    private func room(for pieces: [ArraySlice<Int32>], _ ranks: GenerationRanks) -> Int {
        let (rank, size) = (ranks.mesh.sequence.rank, ranks.mesh.sequence.size)
        let ofPrompt = pieces.reduce(0) { sum, piece in
            sum + ranks.layout.positions(length: piece.count, rank: rank, size: size).count
        }
        return ofPrompt + min(maximumCount, prefillCount) / size + 1
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
