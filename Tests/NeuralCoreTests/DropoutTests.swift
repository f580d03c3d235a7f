import NeuralCore
import TensorCore
import Testing

@Suite struct DropoutTests {
    let device = makeDevice()
    let key = RandomKey(seed: 3).derived(17).derived("layers.0.residual")

    @Test func maskIsTheSameHoweverTokensAreSpread() {
        let x = normal([4, 24, 6], 1, on: device)
        let whole = x.dropout(
            0.3, key: key, tokens: TokenIdentity(batchRows: [0, 1, 2, 3], positions: Array(100..<124)))
        // Striped over three ranks, the batch over two.
        for batch in [[0, 1], [2, 3]] {
            for rank in 0..<3 {
                let local = stride(from: rank, to: 24, by: 3).map { $0 }
                let rows = batch.map { row in x.slice(axis: 0, row..<row + 1) }
                let part = Tensor.concatenate(
                    rows.map { row in .concatenate(local.map { row.slice(axis: 1, $0..<$0 + 1) }, axis: 1) }, axis: 0)
                let found = part.dropout(
                    0.3, key: key, tokens: TokenIdentity(batchRows: batch, positions: local.map { 100 + $0 }))
                for (b, row) in batch.enumerated() {
                    for (t, token) in local.enumerated() {
                        let a = found.slice(axis: 0, b..<b + 1).slice(axis: 1, t..<t + 1).doubles
                        let e = whole.slice(axis: 0, row..<row + 1).slice(axis: 1, token..<token + 1).doubles
                        #expect(a == e)
                    }
                }
            }
        }
    }

    @Test func meanIsKeptAndTheShareOfZerosIsTheProbability() {
        let count = 64 * 256
        let out = Tensor.ones([1, 64, 256], on: device).dropout(
            0.25, key: key, tokens: TokenIdentity(batchRows: [0], positions: Array(0..<64)))
        let values = out.doubles
        let share = Double(values.filter { $0 == 0 }.count) / Double(count)
        // Four standard deviations of a binomial share.
        #expect(abs(share - 0.25) < 4 * (0.25 * 0.75 / Double(count)).squareRoot())
        #expect(values.allSatisfy { $0 == 0 || abs($0 - 4 / 3) < 1e-6 })
        #expect(abs(values.reduce(0, +) / Double(count) - (1 - share) / 0.75) < 1e-6)
    }

    @Test func seedStepSiteRowAndPositionEachChangeTheMask() {
        let x = Tensor.ones([1, 8, 64], on: device)
        func mask(_ key: RandomKey, row: Int = 0, first: Int = 0) -> [Double] {
            x.dropout(0.5, key: key, tokens: TokenIdentity(batchRows: [row], positions: Array(first..<first + 8)))
                .doubles
        }
        let base = mask(RandomKey(seed: 1).derived(1).derived("a"))
        #expect(base == mask(RandomKey(seed: 1).derived(1).derived("a")))
        let others = [
            mask(RandomKey(seed: 2).derived(1).derived("a")), mask(RandomKey(seed: 1).derived(2).derived("a")),
            mask(RandomKey(seed: 1).derived(1).derived("b")), mask(RandomKey(seed: 1).derived(1).derived("a"), row: 1),
            mask(RandomKey(seed: 1).derived(1).derived("a"), first: 8),
        ]
        for other in others {
            // Independent masks agree on half of 512 elements, within 5 standard deviations.
            let equal = zip(base, other).filter { $0 == $1 }.count
            #expect(abs(equal - 256) < 57)
        }
    }

    @Test func gradientUsesTheMaskOfTheForwardPass() throws {
        let tokens = TokenIdentity(batchRows: [0, 1], positions: Array(0..<3))
        let x = normal([2, 3, 4], 2, on: device)
        let key = key
        try expectGradientsMatch([x]) { $0[0].dropout(0.4, key: key, tokens: tokens) }
        let still = x.dropout(0, key: key, tokens: tokens)
        #expect(still.doubles == x.doubles)
    }
}
