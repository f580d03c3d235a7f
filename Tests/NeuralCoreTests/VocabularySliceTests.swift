import DistributedCore
import NeuralCore
import TensorCore
import Testing

@Suite struct VocabularySliceTests {
    /// Head and loss over a vocabulary that is cut over ranks, also into more pieces than it has tokens; logits far apart; ignored targets.
    @Test(arguments: [1, 2, 3, 8], [0.5, 40])
    func lossOverSlicesEqualsTheWhole(_ ranks: Int, _ spread: Double) throws {
        let device = makeDevice()
        let (vocabulary, width) = (7, 4)
        let hidden = normal([2, 5, width], 1, on: device)
        let weight = normal([vocabulary, width], 2, on: device) * spread
        let targets: [Int32] = [0, -1, 6, 3, 3, -100, 2, 1, 5, -1]
        let whole = try valueAndGradient(at: [hidden, weight]) {
            try chunkedCrossEntropy(
                hidden: $0[0], weight: $0[1], targets: Tensor(targets, [2, 5], on: device), chunk: .tokens(4))
        }
        let (h, w) = (hidden.doubles, weight.doubles)
        let found = try InProcessRanks.run(ranks, threads: 1) { world, device in
            let slice = VocabularySlice(of: vocabulary, over: world)
            let rows = Tensor(w, [vocabulary, width], on: device).slice(axis: 0, slice.tokens).contiguous()
            let sharding = ParameterSharding(tensor: world)
            let inputs = [Tensor(h, [2, 5, width], on: device), rows]
            let (value, gradients) = try valueAndGradient(at: inputs) {
                try chunkedCrossEntropy(
                    hidden: sharding.copied($0[0]), weight: $0[1], targets: Tensor(targets, [2, 5], on: device),
                    chunk: .tokens(4), over: slice)
            }
            return (value: value.item, dHidden: gradients[0].doubles, dWeight: gradients[1].doubles)
        }
        let bound = 1e-12 * max(1, spread)
        for rank in found {
            #expect(abs(rank.value / whole.value.item - 1) < 1e-12)
            for (a, b) in zip(rank.dHidden, whole.gradients[0].doubles) { #expect(abs(a - b) < bound * spread) }
        }
        let dWeight = found.flatMap(\.dWeight)
        #expect(dWeight.count == vocabulary * width)
        for (a, b) in zip(dWeight, whole.gradients[1].doubles) { #expect(abs(a - b) < bound) }
        // Exactly nothing for ignored targets.
        for row in [1, 5, 9] { #expect(found[0].dHidden[row * width..<(row + 1) * width].allSatisfy { $0 == 0 }) }
    }

    @Test(arguments: [1, 3])
    func embeddingOverSlicesEqualsTheWhole(_ ranks: Int) throws {
        let device = makeDevice()
        let table = normal([5, 3], 1, on: device)
        let tokens: [Int32] = [4, 0, -1, 2, 2, 3]
        let whole = try valueAndGradient(at: [table]) {
            ($0[0].gather(Tensor(tokens, [2, 3], on: device)) * 2).squared.sum()
        }
        let values = table.doubles
        let found = try InProcessRanks.run(ranks, threads: 1) { world, device in
            let rows = VocabularySlice(of: 5, over: world).tokens
            var embedding = Embedding(vocabulary: rows.count, width: 3, .float64, on: device)
            embedding.weight = Tensor(values, [5, 3], on: device).slice(axis: 0, rows).contiguous()
            let context = SequenceContext(
                positions: .contiguous(count: 3), attention: NoAttention(), sharding: ParameterSharding(tensor: world),
                precision: .float64, on: device)
            let (value, gradient) = try valueAndGradient(at: embedding) {
                try ($0(Tensor(tokens, [2, 3], on: device), of: 5, context) * 2).squared.sum()
            }
            return (value: value.item, gradient: gradient.weight.doubles)
        }
        for rank in found { #expect(rank.value == whole.value.item) }
        #expect(found.flatMap(\.gradient) == whole.gradients[0].doubles)
    }
}
