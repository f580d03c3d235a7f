// Letters: B batch, T tokens held here, C cached tokens, M model width, V vocabulary.

import AttentionCore
import NeuralCore
import TensorCore
import Testing

/// The smallest model whose next token depends on all tokens before: each sees the mean of what is at or before it.
private struct MeanModel: LanguageModel {
    var embedding: Tensor
    var head: Tensor
    /// Tokens that went through the model, call by call.
    let calls = Calls()

    init(vocabulary: Int = 23, width: Int = 12, seed: UInt64 = 3, on device: any Device) {
        embedding = .random(.normal, [vocabulary, width], key: seed, on: device)
        head = .random(.normal, [vocabulary, width], key: seed + 1, on: device)
    }

    var vocabularySize: Int { embedding.shape[0] }
    var headWeight: Tensor { head }

    func hidden(_ tokens: Tensor, _ context: SequenceContext, cache: inout KeyValueCache?) throws -> Tensor {
        calls.record(tokens.shape[1])
        let x_BTM = embedding.gather(tokens)
        var seen = x_BTM.expanded(axis: 1)  // [B, 1, C, M]
        if cache != nil { seen = cache!.append(seen, seen, layer: 0, context).keys }
        let count = seen.shape[2]
        let rows = context.positions.indices.flatMap { i in
            (0..<count).map { $0 <= i ? 1 / Float(i + 1) : 0 }
        }
        let mean_TC = Tensor(rows, [context.positions.count, count], on: tokens.device)
        let mean_BTM = Tensor.matmul(mean_TC, seen.reshaped([tokens.shape[0], count, -1]))
        return x_BTM + mean_BTM * 3
    }

    mutating func visit(_ visitor: inout ParameterVisitor) {
        visitor("embedding", &embedding)
        visitor("head", &head)
    }
}

/// What a model was asked for; used by one thread.
private final class Calls: @unchecked Sendable {
    // Unchecked: a test calls its model from its own thread alone.
    private(set) var counts: [Int] = []
    func record(_ count: Int) { counts.append(count) }
}

/// `MeanModel` computes its own means.
struct NoAttention: AttentionBackend {
    var name: String { "none" }
    func unsupportedReasons(_ problem: AttentionProblem) -> [String] { ["this backend computes nothing"] }
    func forward(
        q: Tensor, k: Tensor, v: Tensor, into state: inout AttentionState, _ problem: AttentionProblem
    ) throws { try requireSupport(problem) }
    func backward(
        dOut: Tensor, q: Tensor, k: Tensor, v: Tensor, lse: Tensor, delta: Tensor,
        into gradients: inout AttentionGradients, _ problem: AttentionProblem
    ) throws { try requireSupport(problem) }
}

@Suite struct GenerationTests {
    private let prompt: [Int32] = [4, 0, 22, 7, 7, 1, 13]

    private func generate(
        _ generation: TokenGeneration, _ model: MeanModel, prompt: [Int32]? = nil,
        wanted: (Int32) -> Bool = { _ in true }
    ) throws -> (tokens: [Int32], end: TokenGeneration.End) {
        var tokens: [Int32] = []
        let end = try generation.run(
            model, prompt: prompt ?? self.prompt, over: .one(NoAttention(), on: model.embedding.device)
        ) { token in
            tokens.append(token)
            return wanted(token)
        }
        return (tokens, end)
    }

    /// Every token from the whole sequence again, without a cache.
    private func generateWithoutCache(_ sampler: Sampler, _ model: MeanModel, count: Int) throws -> [Int32] {
        let device = model.embedding.device
        var tokens = prompt
        for _ in 0..<count {
            let context = SequenceContext(
                positions: .contiguous(count: tokens.count), attention: NoAttention(), on: device)
            var none: KeyValueCache?
            let logits = try model.logits(Tensor(tokens, [1, tokens.count], on: device), context, cache: &none)
            let last = logits.slice(axis: 1, tokens.count - 1..<tokens.count)
            tokens.append(try sampler.sample(last.doubles, position: tokens.count))
        }
        return Array(tokens.dropFirst(prompt.count))
    }

    @Test(arguments: [0.0, 1.0])
    func cacheAndPiecesOfThePromptChangeNothing(_ temperature: Double) throws {
        let device = makeDevice()
        let sampler = try Sampler(temperature: temperature, topK: 8, seed: 5)
        let expected = try generateWithoutCache(sampler, MeanModel(on: device), count: 40)
        #expect(Set(expected).count > 3)
        for piece in [1, 2, 3, 6, 7, 100] {
            let model = MeanModel(on: device)
            var generation = TokenGeneration(sampler, maximumCount: 40)
            generation.prefillCount = piece
            let (tokens, end) = try generate(generation, model)
            #expect(tokens == expected && end == .maximumCount, "pieces of \(piece)")
            // The prompt goes through once, then each new token but the last.
            #expect(model.calls.counts.reduce(0, +) == prompt.count + 39)
            #expect(model.calls.counts.allSatisfy { $0 <= piece })
        }
    }

    @Test func sameSeedGivesTheSameTokensAtAnyThreadCount() throws {
        let generation = TokenGeneration(try Sampler(seed: 11), maximumCount: 60)
        let one = try generate(generation, MeanModel(on: CPUDevice(threads: 1))).tokens
        #expect(try generate(generation, MeanModel(on: CPUDevice(threads: 3))).tokens == one)
        let other = TokenGeneration(try Sampler(seed: 12), maximumCount: 60)
        #expect(try generate(other, MeanModel(on: CPUDevice(threads: 1))).tokens != one)
    }

    @Test func stopTokenEndsAndIsNotHandedOut() throws {
        let model = MeanModel(on: makeDevice())
        let sampler = try Sampler(seed: 2)
        let all = try generate(TokenGeneration(sampler, maximumCount: 30), model).tokens
        let stop = all[9]
        let first = all.firstIndex(of: stop)!
        let (tokens, end) = try generate(
            TokenGeneration(sampler, maximumCount: 30, stopTokens: [stop, 1000]), model)
        #expect(tokens == Array(all[..<first]))
        #expect(end == .stopToken(stop))
    }

    @Test func receiverEndsAfterTheTokenItDoesNotWantMoreThan() throws {
        let model = MeanModel(on: makeDevice())
        var left = 4
        let (tokens, end) = try generate(TokenGeneration(try Sampler(), maximumCount: 30), model) { _ in
            left -= 1
            return left > 0
        }
        #expect(tokens.count == 4 && end == .receiver)
    }

    @Test func noTokensAreAsked() throws {
        let model = MeanModel(on: makeDevice())
        let (tokens, end) = try generate(TokenGeneration(try Sampler(), maximumCount: 0), model)
        #expect(tokens.isEmpty && end == .maximumCount && model.calls.counts.isEmpty)
    }

    @Test func badPromptsAreRefused() throws {
        let model = MeanModel(on: makeDevice())
        let generation = TokenGeneration(try Sampler(), maximumCount: 3)
        for (prompt, words) in [([], "no tokens"), ([1, 23], "token 23 at place 1"), ([-1], "token -1 at place 0")] {
            let error = #expect(throws: RingZooError.self) {
                try generate(generation, model, prompt: prompt.map { Int32($0) })
            }
            #expect(error?.code == .usage && error?.message.contains(words) == true)
        }
        let error = #expect(throws: RingZooError.self) {
            try generate(TokenGeneration(try Sampler(), maximumCount: -1), model)
        }
        #expect(error?.code == .usage)
        #expect(model.calls.counts.isEmpty)
    }

    @Test func notANumberNamesThePosition() throws {
        let device = makeDevice()
        var model = MeanModel(on: device)
        // Token 22 is in the prompt's third place; the fourth token is the first whose logits it spoils.
        model.embedding = Tensor(
            model.embedding.values(Float.self).enumerated().map { $0 / 12 == 22 ? Float.nan : $1 }, [23, 12], on: device
        )
        let error = #expect(throws: RingZooError.self) {
            try generate(TokenGeneration(try Sampler(), maximumCount: 3), model)
        }
        #expect(error?.message == "position 7: the logit of token 0 is nan")
    }

    /// A budget the cache does not fit.
    @Test func failureOfTheDeviceSurfaces() throws {
        let device = makeDevice()
        let model = MeanModel(on: device)
        device.ledger.budget = device.ledger.live() + 2_000
        let error = #expect(throws: RingZooError.self) {
            try generate(TokenGeneration(try Sampler(), maximumCount: 300), model)
        }
        #expect(error?.message.contains("budget") == true)
    }
}
