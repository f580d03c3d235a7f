import Foundation
import NeuralCore
import TensorCore
import Testing

/// One tensor of two axes and one of one axis.
struct TwoParameters: Module {
    var matrix: Tensor
    var vector: Tensor

    mutating func visit(_ visitor: inout ParameterVisitor) {
        visitor("matrix", &matrix)
        visitor("vector", &vector)
    }
}

@Suite struct OptimizerTests {
    let device = makeDevice()

    private func model(_ dtype: DType = .float64, key: UInt64 = 1) -> TwoParameters {
        TwoParameters(
            matrix: normal([3, 2], key, on: device).cast(to: dtype),
            vector: normal([4], key + 1, on: device).cast(to: dtype))
    }

    private func values(_ model: TwoParameters) -> [Double] { model.matrix.doubles + model.vector.doubles }

    /// Five steps with clipping and a rate that changes, against the algorithm written out on arrays of Double.
    @Test(arguments: [DType.float64, .float32]) func adamWFollowsThePublishedAlgorithm(dtype: DType) {
        var settings = AdamW.Settings()
        settings.weightDecay = 0.2
        var found = model(dtype)
        var optimizer = AdamW(for: found, settings)
        var w = values(found)
        var m = [Double](repeating: 0, count: 10)
        var v = m
        for step in 1...5 {
            let gradient = model(dtype, key: UInt64(10 * step))
            let g = values(gradient)
            let norm = g.reduce(0) { $0 + $1 * $1 }.squareRoot()
            #expect(abs(gradient.globalNorm - norm) < 1e-6 * norm)
            let scale = norm > 1 ? 1 / (norm + 1e-6) : 1
            let rate = 0.1 / Double(step)
            for i in 0..<10 {
                m[i] = 0.9 * m[i] + 0.1 * g[i] * scale
                v[i] = 0.95 * v[i] + 0.05 * g[i] * scale * g[i] * scale
                if i < 6 { w[i] -= rate * 0.2 * w[i] }
                w[i] -=
                    rate * (m[i] / (1 - pow(0.9, Double(step))))
                    / ((v[i] / (1 - pow(0.95, Double(step)))).squareRoot() + 1e-8)
            }
            optimizer.update(
                &found, gradient: gradient, rate: rate,
                gradientScale: clippingScale(norm: gradient.globalNorm, limit: 1))
        }
        let tolerance = dtype == .float64 ? 1e-12 : 1e-5
        for (a, b) in zip(values(found), w) { #expect(abs(a - b) < tolerance) }
        #expect(optimizer.step == 5)
        #expect(optimizer.state.map { $0.name } == ["m.matrix", "m.vector", "v.matrix", "v.vector"])
        for (a, b) in zip(optimizer.state[0].tensor.doubles, m) { #expect(abs(a - b) < tolerance) }
    }

    @Test(arguments: [0, 0.9]) func sgdFollowsTheAlgorithm(momentum: Double) {
        var found = model()
        var optimizer = SGD(for: found, momentum: momentum, weightDecay: 0.3)
        var w = values(found)
        var u = [Double](repeating: 0, count: 10)
        for step in 1...5 {
            let gradient = model(key: UInt64(10 * step))
            let g = values(gradient)
            for i in 0..<10 {
                u[i] = momentum * u[i] + 0.5 * g[i] + (i < 6 ? 0.3 * w[i] : 0)
                w[i] -= 0.01 * u[i]
            }
            optimizer.update(&found, gradient: gradient, rate: 0.01, gradientScale: 0.5)
        }
        for (a, b) in zip(values(found), w) { #expect(abs(a - b) < 1e-13) }
        #expect(optimizer.state.count == (momentum == 0 ? 0 : 2))
    }

    /// Only leaves that share storage with something else may be copied: a snapshot survives an update.
    @Test func aCopyOfTheModelIsASnapshot() {
        var found = model()
        let before = found
        let expected = values(before)
        var optimizer = AdamW(for: found)
        optimizer.update(&found, gradient: model(key: 7), rate: 0.1)
        #expect(values(before) == expected)
        #expect(values(found) != expected)
    }

    /// A gradient with strides (of a transposed use) or shared storage is read by its strides.
    @Test func stridedGradientsAreReadByTheirStrides() {
        let transposed = normal([2, 3], 4, on: device)
        var a = model()
        var b = a
        var first = SGD(for: a, momentum: 0)
        var second = first
        first.update(
            &a, gradient: TwoParameters(matrix: transposed.transposed(), vector: normal([4], 5, on: device)), rate: 1)
        let copy = Tensor(transposed.transposed().doubles, [3, 2], on: device)
        second.update(&b, gradient: TwoParameters(matrix: copy, vector: normal([4], 5, on: device)), rate: 1)
        #expect(values(a) == values(b))
    }

    /// A whole step, from the gradient to the updated weights, allocates no bytes of a parameter's size, and the gradient is gone
    /// after it.
    @Test func aStepAllocatesNothingOfAParametersSize() throws {
        var layer = SwiGLUFeedForward(width: 64, hiddenSize: 128, bias: true, on: device)
        layer.initialise(seed: 1)
        let x = normal([1, 8, 64], 1, on: device).cast(to: .float32)
        var adam = AdamW(for: layer)
        var sgd = SGD(for: layer)
        for step in 0..<4 {
            let gradient = try valueAndGradient(at: layer) { $0(x).squared.sum() }.gradient
            let before = MemoryKind.allCases.map { device.ledger.live($0) }
            device.ledger.resetPeak()
            let scale = clippingScale(norm: gradient.globalNorm, limit: 1)
            if step % 2 == 0 {
                adam.update(&layer, gradient: consume gradient, rate: 1e-3, gradientScale: scale)
            } else {
                sgd.update(&layer, gradient: consume gradient, rate: 1e-3, gradientScale: scale)
            }
            for (kind, before) in zip(MemoryKind.allCases, before) {
                #expect(device.ledger.peak(kind) - before < 1024, "\(kind)")
            }
            #expect(device.ledger.live(.gradients) == 0)
        }
    }

    @Test func aRestoredStateContinuesBitForBit() throws {
        var a = model(.float32)
        var optimizer = AdamW(for: a)
        for step in 1...3 {
            optimizer.update(&a, gradient: model(.float32, key: UInt64(step)), rate: 0.1)
        }
        var b = TwoParameters(
            matrix: Tensor(a.matrix.values(Float.self), [3, 2], on: device),
            vector: Tensor(a.vector.values(Float.self), on: device))
        var restored = AdamW(for: b)
        try restored.restore(
            step: optimizer.step, state: Dictionary(uniqueKeysWithValues: optimizer.state.map { ($0.name, $0.tensor) }))
        optimizer.update(&a, gradient: model(.float32, key: 9), rate: 0.1)
        restored.update(&b, gradient: model(.float32, key: 9), rate: 0.1)
        #expect(values(a) == values(b))
        #expect(restored.step == 4)
    }

    @Test func aStateThatDoesNotFitIsRefusedAndChangesNothing() throws {
        var optimizer = AdamW(for: model())
        var saved = Dictionary(uniqueKeysWithValues: optimizer.state.map { ($0.name, $0.tensor) })
        saved["m.matrix"] = .ones([3, 2], .float64, on: device)
        saved["v.matrix"] = .zeros([2, 3], .float64, on: device)
        saved["m.vector"] = nil
        saved["m.ghost"] = .zeros([1], on: device)
        let error = #expect(throws: RingZooError.self) { try optimizer.restore(step: 2, state: saved) }
        #expect(error?.code == .corruptInput)
        let text = error?.tried.joined(separator: "\n") ?? ""
        for name in ["m.vector", "v.matrix", "m.ghost"] { #expect(text.contains(name)) }
        #expect(optimizer.step == 0)
        #expect(optimizer.state[0].tensor.doubles == [0, 0, 0, 0, 0, 0])
    }

    @Test func clippingLeavesSmallNormsAlone() {
        #expect(clippingScale(norm: 0.5, limit: 1) == 1)
        #expect(clippingScale(norm: 100, limit: nil) == 1)
        #expect(abs(clippingScale(norm: 4, limit: 1) - 0.25) < 1e-6)
    }

    @Test func accumulationSumsInPlace() throws {
        var layer = SwiGLUFeedForward(width: 32, hiddenSize: 64, on: device)
        layer.initialise(seed: 1)
        let x = normal([1, 8, 32], 1, on: device).cast(to: .float32)
        func gradient(_ scale: Double) throws -> SwiGLUFeedForward {
            try valueAndGradient(at: layer) { $0(x * scale).squared.sum() }.gradient
        }
        var accumulation = GradientAccumulation<SwiGLUFeedForward>()
        accumulation.add(try gradient(1))
        for scale in [0.5, 0.25] {
            let next = try gradient(scale)
            let before = MemoryKind.allCases.map { device.ledger.live($0) }
            device.ledger.resetPeak()
            accumulation.add(consume next)
            for (kind, before) in zip(MemoryKind.allCases, before) {
                #expect(device.ledger.peak(kind) - before < 64, "\(kind)")
            }
        }
        #expect(accumulation.count == 3)
        #expect(device.ledger.live(.gradients) == 3 * 32 * 64 * 4)
        let taken = accumulation.take()
        let sum = try #require(taken)
        let none = accumulation.take()
        #expect(none == nil)
        #expect(accumulation.count == 0)
        let parts = [try gradient(1), try gradient(0.5), try gradient(0.25)]
        for (index, total) in sum.parameters.enumerated() {
            let expected = parts.dropFirst().reduce(parts[0].parameters[index].tensor) {
                $0 + $1.parameters[index].tensor
            }
            #expect(total.tensor.doubles == expected.doubles, "\(total.name)")
        }
    }
}
