import NeuralCore
import TensorCore
import Testing

@Suite struct InitialisationTests {
    let device = makeDevice()

    /// The same two layers, visited in either order.
    private struct Ordered: Module {
        var first: Linear
        var second: Linear
        var reversed: Bool

        mutating func visit(_ visitor: inout ParameterVisitor) {
            if reversed { visitor("second", &second) }
            visitor("first", &first)
            if !reversed { visitor("second", &second) }
        }
    }

    @Test func numbersDependOnSeedAndNameNotOnOrder() {
        func weights(seed: UInt64, reversed: Bool) -> [[Double]] {
            var model = Ordered(
                first: Linear(inputs: 3, outputs: 4, on: device), second: Linear(inputs: 3, outputs: 4, on: device),
                reversed: reversed)
            model.initialise(seed: seed)
            return [model.first.weight.doubles, model.second.weight.doubles]
        }
        let base = weights(seed: 1, reversed: false)
        #expect(base == weights(seed: 1, reversed: true))
        #expect(base[0] != base[1])
        #expect(base[0] != weights(seed: 2, reversed: false)[0])
    }

    @Test func aShardDrawsItsRowsOfTheWhole() {
        let whole = Tensor.zeros([10, 6], on: device)
        whole.drawNormal(standardDeviation: 0.1, seed: 4, name: "w")
        let shard = Tensor.zeros([3, 6], on: device)
        shard.drawNormal(standardDeviation: 0.1, seed: 4, name: "w", firstRow: 5)
        #expect(shard.doubles == whole.slice(axis: 0, 5..<8).doubles)
    }

    @Test func meanAndDeviationAreRightAndNormsAreLeftAlone() {
        var layer = Linear(inputs: 256, outputs: 128, bias: true, on: device)
        layer.initialise(seed: 3)
        let values = layer.weight.doubles
        let count = Double(values.count)
        let mean = values.reduce(0, +) / count
        let deviation = (values.reduce(0) { $0 + ($1 - mean) * ($1 - mean) } / count).squareRoot()
        // Four standard errors of the mean and of the deviation.
        #expect(abs(mean) < 4 * 0.02 / count.squareRoot())
        #expect(abs(deviation - 0.02) < 4 * 0.02 / (2 * count).squareRoot())
        #expect(layer.bias!.doubles.allSatisfy { $0 == 0 })
        var norm = RMSNorm(width: 8, on: device)
        norm.initialise(seed: 3)
        #expect(norm.weight.doubles.allSatisfy { $0 == 1 })
    }

    @Test func parametersAreCountedAsParameters() {
        var layer = Linear(inputs: 16, outputs: 16, on: device)
        layer.initialise(seed: 1)
        #expect(device.ledger.live(.parameters) == 16 * 16 * 4)
        #expect(layer.parameterCount == 256)
    }
}
