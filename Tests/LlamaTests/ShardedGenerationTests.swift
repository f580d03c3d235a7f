import AttentionCore
import CPUAttention
import DistributedCore
import NeuralCore
import RingAttention
import TensorCore
import Testing
import TreeAttention

@testable import Llama

/// Generation with the keys and values spread over ranks: the prompt by the ring, new tokens by the tree.
@Suite struct ShardedGenerationTests {
    static let configuration = LlamaConfiguration(
        width: 32, layers: 2, heads: 4, keyHeads: 2, feedForward: 48, vocabulary: 61)

    static func model(_ configuration: LlamaConfiguration = configuration, on device: any Device) throws -> Llama {
        var model = try Llama(configuration, on: device)
        // Weights large enough that every token depends on all before it.
        model.initialise(seed: 11) { _, shape in shape.count >= 2 ? 0.3 : nil }
        return model
    }

    static func prompt(_ count: Int) -> [Int32] { (0..<count).map { Int32(($0 * 37 + 5) % 61) } }

    static func ranks(_ communicator: any Communicator, _ layout: SequenceLayout = .zigzag) -> GenerationRanks {
        GenerationRanks(
            ProcessMesh(sequence: communicator), prefill: RingAttention(CPUAttention(), over: communicator),
            decode: TreeAttention(CPUAttention(), over: communicator), layout: layout)
    }

    static func generate(
        _ generation: TokenGeneration, _ prompt: [Int32], with model: Llama? = nil, over ranks: GenerationRanks
    ) throws -> (tokens: [Int32], end: TokenGeneration.End) {
        var tokens: [Int32] = []
        let model = try model ?? Self.model(on: ranks.mesh.world.device)
        let end = try generation.run(model, prompt: prompt, over: ranks) {
            tokens.append($0)
            return true
        }
        return (tokens, end)
    }

    /// Prompts shorter than the ring, no multiples of it, in one piece and in several; many more new tokens than ranks.
    @Test(arguments: zip([0.0, 1.0, 1.0], SequenceLayout.allCases))
    func anyNumberOfRanksGivesTheSameTokens(_ temperature: Double, _ layout: SequenceLayout) throws {
        var generation = TokenGeneration(try Sampler(temperature: temperature, seed: 5), maximumCount: 24)
        for (length, piece) in [(1, 100), (2, 100), (3, 1), (7, 2), (29, 3), (30, 100)] {
            generation.prefillCount = piece
            let device = CPUDevice(threads: 1)
            let one = try Self.generate(generation, Self.prompt(length), over: .one(CPUAttention(), on: device))
            #expect(one.tokens.count == 24)
            for size in [2, 3, 4] {
                let all = try InProcessRanks.run(size, threads: 1) { [generation] communicator, _ in
                    try Self.generate(generation, Self.prompt(length), over: Self.ranks(communicator, layout)).tokens
                }
                #expect(all.allSatisfy { $0 == one.tokens }, "\(size) ranks, prompt \(length) in pieces of \(piece)")
            }
        }
    }

    @Test func stopTokensEndAllRanks() throws {
        let sampler = try Sampler(seed: 3)
        let device = CPUDevice(threads: 1)
        let whole = try Self.generate(
            TokenGeneration(sampler, maximumCount: 20), Self.prompt(9), over: .one(CPUAttention(), on: device)
        ).tokens
        let generation = TokenGeneration(sampler, maximumCount: 20, stopTokens: [whole[12]])
        let outcomes = try InProcessRanks.run(3, threads: 1, deadline: 10) { communicator, _ in
            try Self.generate(generation, Self.prompt(9), over: Self.ranks(communicator))
        }
        for outcome in outcomes {
            #expect(outcome.end == .stopToken(whole[12]) && outcome.tokens == Array(whole.prefix { $0 != whole[12] }))
        }
    }

    /// Logits after the prompt and after each new token, against the whole sequence on one device; and every token is kept once.
    @Test(arguments: [1, 2, 3, 4, 5], [1, 3, 26])
    func logitsEqualTheFullForward(_ size: Int, _ length: Int) throws {
        let (tokens, cut) = (Self.prompt(length + 14), length / 2)
        struct Reading: Sendable {
            var logits: [Int: [Double]] = [:]
            var positions: [Int] = []
            var held: [Int] = []
        }
        let readings = try InProcessRanks.run(size, threads: 1) { communicator, device -> Reading in
            var text = ShardedSequence(try Self.model(on: device), over: Self.ranks(communicator))
            var reading = Reading()
            func note(_ states: Tensor?) throws {
                reading.logits[text.count] = try text.lastLogits(of: states)?.doubles
            }
            if cut > 0 { try note(text.prefill(tokens[..<cut])) }
            try note(text.prefill(tokens[cut..<length]))
            for token in tokens[length...] { try note(text.decode(token)) }
            (reading.positions, reading.held) = (text.positionsHeld.indices, text.held)
            return reading
        }
        let device = CPUDevice(threads: 1)
        var none: KeyValueCache?
        let context = wholeContext(tokens.count, CPUAttention(), on: device)
        let row = Tensor(tokens, [1, tokens.count], on: device)
        let expected = try Self.model(on: device).logits(row, context, cache: &none)
        var seen = Set<Int>()
        for (count, logits) in readings.map(\.logits).joined() {
            seen.insert(count)
            let wanted = expected.slice(axis: 1, count - 1..<count).doubles
            #expect(largestDifference(logits, wanted) <= 1e-5 * largest(wanted), "\(size) ranks, \(count) tokens")
        }
        #expect(seen.isSuperset(of: length...tokens.count))
        // One rank speaks.
        #expect(readings.map(\.logits.count).reduce(0, +) == tokens.count - length + (cut > 0 ? 2 : 1))

        #expect(readings.flatMap(\.positions).sorted() == Array(tokens.indices))
        let counts = readings.map(\.positions.count)
        #expect(readings.allSatisfy { $0.held == counts }, "\(counts)")
        #expect(counts.max()! - counts.min()! <= 1, "\(counts)")
    }

    /// One message a layer to each other rank for a new token, and one that says which.
    @Test(arguments: [1, 2, 3, 4])
    func messagesOfANewTokenAreTheFormula(_ size: Int) throws {
        let c = Self.configuration
        func traffic(_ newTokens: Int) throws -> [Traffic] {
            let generation = TokenGeneration(try Sampler(seed: 1), maximumCount: newTokens)
            return try InProcessRanks.run(size, threads: 1) { communicator, _ in
                _ = try Self.generate(generation, Self.prompt(10), over: Self.ranks(communicator))
                return communicator.traffic
            }
        }
        let (few, more) = (try traffic(3), try traffic(8))
        let state = c.heads * (c.headSize + 2) * 4
        for rank in 0..<size {
            // The layout is zigzag: rank 0 has the prompt's last token, and speaks.
            let messages = c.layers * (size - 1) + (rank == 0 ? size - 1 : 0)
            let expected = Traffic(messages: 5 * messages, bytes: 5 * c.layers * (size - 1) * state)
            #expect(more[rank] - few[rank] == expected)
        }
    }

    /// With sharded parameters the layers travel for a new token; of embedding and head, in which a small model has most of its
    /// parameters, one row and one rank's share of the logits do.
    @Test(arguments: [false, true], [2, 3, 4])
    func embeddingAndHeadStayWhereTheyLie(_ tied: Bool, _ size: Int) throws {
        var configuration = Self.configuration
        (configuration.tied, configuration.vocabulary) = (tied, 1009)
        func traffic(_ newTokens: Int) throws -> Int {
            let generation = TokenGeneration(try Sampler(seed: 1), maximumCount: newTokens)
            return try InProcessRanks.run(size, threads: 1) { [configuration] communicator, device in
                let mesh = try ProcessMesh(.init(sequence: size), shardParameters: true, over: communicator)
                let model = Self.part(of: try Self.model(configuration, on: device), mesh)
                _ = try Self.generate(generation, Self.prompt(10), with: model, over: Self.ranks(mesh))
                return communicator.traffic.bytes
            }.reduce(0, +)
        }
        let c = configuration
        let (M, V, others) = (c.width, c.vocabulary, size - 1)
        let embeddingAndHead = (tied ? 1 : 2) * V * M
        // The layers and the last norm go to all ranks; each layer's partial softmax does, too.
        let layers = others * (c.parameterCount - embeddingAndHead)
        let attention = c.layers * size * others * c.heads * (c.headSize + 2)
        // Every rank asks every other one for the token's row, and its holder answers; then the state that is to become logits goes out
        // from rank 0, which speaks, and the logits of the others' rows come back.
        let lookup = size * others + others * M
        let logits = others * M + V - Range.piece(0, of: size, count: V).count
        #expect(try traffic(8) - traffic(3) == 5 * 4 * (layers + attention + lookup + logits))
    }

    /// How ranks share a model and its text.
    struct Mesh: CustomTestStringConvertible, Sendable {
        var sequence, tensor: Int
        var sharded: Bool

        var ranks: Int { sequence * tensor }
        var testDescription: String { "\(sequence) x \(tensor)\(sharded ? ", sharded" : "")" }

        func over(_ world: any Communicator) throws -> ProcessMesh {
            try ProcessMesh(.init(sequence: sequence, tensor: tensor), shardParameters: sharded, over: world)
        }
    }

    /// What a rank of a mesh has of a model.
    static func part(of model: consuming Llama, _ mesh: ProcessMesh) -> Llama {
        let axes = model
        model.forEachParameter { name, parameter in
            let part = mesh.sharding.part(of: parameter.shape, tensorAxis: axes.tensorAxis(of: name))
            parameter = part.of(parameter).copy(kind: .parameters)
        }
        return model
    }

    static func ranks(_ mesh: ProcessMesh) -> GenerationRanks {
        GenerationRanks(
            mesh, prefill: RingAttention(CPUAttention(), over: mesh.sequence),
            decode: TreeAttention(CPUAttention(), over: mesh.sequence))
    }

    static let meshes = [
        Mesh(sequence: 1, tensor: 2, sharded: false), Mesh(sequence: 2, tensor: 2, sharded: false),
        Mesh(sequence: 2, tensor: 1, sharded: true), Mesh(sequence: 3, tensor: 1, sharded: true),
        Mesh(sequence: 2, tensor: 2, sharded: true),
    ]

    /// Layers cut by heads, parameters by rows, or both; a vocabulary of 61, which nothing divides. With a tied head, too.
    @Test(arguments: meshes, [0.0, 1.0])
    func anyMeshGivesTheSameTokens(_ mesh: Mesh, _ temperature: Double) throws {
        var generation = TokenGeneration(try Sampler(temperature: temperature, seed: 5), maximumCount: 24)
        generation.prefillCount = 4
        for tied in [false, true] {
            var configuration = Self.configuration
            configuration.tied = tied
            for length in [1, 14] {
                let device = CPUDevice(threads: 1)
                let whole = try Self.model(configuration, on: device)
                let one = try Self.generate(
                    generation, Self.prompt(length), with: whole, over: .one(CPUAttention(), on: device)
                ).tokens
                #expect(Set(one).count > 3, "there is something to compare")
                let all = try InProcessRanks.run(mesh.ranks, threads: 1) { [generation, configuration] world, device in
                    let mesh = try mesh.over(world)
                    let part = Self.part(of: try Self.model(configuration, on: device), mesh)
                    return try Self.generate(generation, Self.prompt(length), with: part, over: Self.ranks(mesh)).tokens
                }
                #expect(all.allSatisfy { $0 == one }, "tied \(tied), prompt of \(length)")
            }
        }
    }

    /// What a rank holds while it writes, weights and everything else together, against the weights of the whole model.
    @Test(arguments: [
        Mesh(sequence: 2, tensor: 1, sharded: true), Mesh(sequence: 4, tensor: 1, sharded: true),
        Mesh(sequence: 1, tensor: 4, sharded: false), Mesh(sequence: 2, tensor: 2, sharded: true),
    ])
    func aModelLargerThanARanksMemory(_ mesh: Mesh) throws {
        let whole = 4 * Self.deep.parameterCount
        let block = 4 * (4 * 64 * 64 + 3 * 64 * 64 + 2 * 64)
        struct Holding: Sendable { var weights, working: Int }
        let holdings = try InProcessRanks.run(mesh.ranks, threads: 1) { world, device -> Holding in
            let mesh = try mesh.over(world)
            let model = Self.part(of: try Self.model(Self.deep, on: device), mesh)
            device.ledger.resetPeak()
            let generation = TokenGeneration(try Sampler(seed: 1), maximumCount: 10)
            _ = try generation.run(model, prompt: Self.prompt(12), over: Self.ranks(mesh)) { _ in true }
            return Holding(weights: device.ledger.peak(.parameters), working: device.ledger.peak())
        }
        for holding in holdings {
            // To within one row of each parameter.
            #expect(holding.weights <= whole / mesh.ranks + 8 * 9 * 64 * 4)
            // Two blocks, what is joined of one, and the few tokens.
            #expect(holding.working <= (mesh.sharded ? 3 * block : 0) + 22 * Self.tokenBytes, "\(holding.working)")
            #expect(holding.weights + holding.working < whole)
        }
    }

    static let deep = LlamaConfiguration(width: 64, layers: 8, heads: 4, feedForward: 64, vocabulary: 61)
    /// Keys and values of a token, in all layers.
    static let tokenBytes = deep.layers * 2 * deep.keyHeads * deep.headSize * 4

    /// What lies on a rank after the prompt is the keys and values of its part, and nothing else.
    @Test(arguments: [1, 2, 4])
    func cacheOfARankIsItsPart(_ size: Int) throws {
        let length = 256
        let bytes = try InProcessRanks.run(size, threads: 1) { communicator, device -> Int in
            let model = try Self.model(Self.deep, on: device)
            let before = device.ledger.live()
            var text = ShardedSequence(model, over: Self.ranks(communicator), room: length / size)
            for start in stride(from: 0, to: length, by: 64) {
                _ = try text.prefill(Self.prompt(length)[start..<start + 64])
            }
            defer { withExtendedLifetime(text) {} }
            return device.ledger.live() - before
        }
        #expect(bytes == [Int](repeating: length / size * Self.tokenBytes, count: size))
    }

    /// A prompt whose keys and values do not fit one rank: it ends with an error that says so, and four ranks do it.
    @Test func promptLongerThanOneRanksMemory() throws {
        let length = 2_048
        let budget = length * Self.tokenBytes / 2
        var generation = TokenGeneration(try Sampler(seed: 1), maximumCount: 5)
        generation.prefillCount = 64
        func run(_ size: Int, _ budget: Int?) throws -> [[Int32]] {
            try InProcessRanks.run(size, threads: 1) { [generation] communicator, device in
                device.ledger.budget = budget
                let model = try Self.model(Self.deep, on: device)
                var tokens: [Int32] = []
                _ = try generation.run(model, prompt: Self.prompt(length), over: Self.ranks(communicator)) {
                    tokens.append($0)
                    return true
                }
                return tokens
            }
        }
        let error = #expect(throws: RingZooError.self) { try run(1, budget) }
        #expect(error?.message.contains("the budget is \(budget) bytes") == true)
        #expect(error?.tried.joined().contains("spread it over more ranks") == true)
        let expected = try run(1, nil)[0]
        #expect(try run(4, budget).allSatisfy { $0 == expected })
    }

    /// A rank that fails in the middle of a text ends all, with its own error.
    @Test func aRankThatFailsEndsAll() throws {
        let generation = TokenGeneration(try Sampler(seed: 1), maximumCount: 50)
        let error = #expect(throws: RingZooError.self) {
            try InProcessRanks.run(3, threads: 1, deadline: 20) { communicator, device in
                var count = 0
                _ = try generation.run(
                    Self.model(on: device), prompt: Self.prompt(8), over: Self.ranks(communicator)
                ) { _ in
                    count += 1
                    if count == 10 && communicator.rank == 1 { throw RingZooError(.inputOutput, "disk full") }
                    return true
                }
            }
        }
        #expect(error?.code == .inputOutput && error?.message == "disk full")
    }
}
