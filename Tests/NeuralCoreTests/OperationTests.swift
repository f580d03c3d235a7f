import Foundation
import NeuralCore
import TensorCore
import Testing

/// Forward values against plain Swift, and every pullback against central differences in float64.
@Suite struct OperationTests {
    let device = makeDevice()

    @Test func linearIsRowTimesWeightTransposedPlusBias() throws {
        let x = normal([2, 3, 4], 1, on: device)
        let w = normal([5, 4], 2, on: device)
        let b = normal([5], 3, on: device)
        let (xs, ws, bs, out) = (x.doubles, w.doubles, b.doubles, x.linear(weight: w, bias: b))
        #expect(out.shape == [2, 3, 5])
        let found = out.doubles
        for n in 0..<6 {
            for o in 0..<5 {
                let expected = (0..<4).reduce(bs[o]) { $0 + xs[n * 4 + $1] * ws[o * 4 + $1] }
                #expect(abs(found[n * 5 + o] - expected) < 1e-13)
            }
        }
        try expectGradientsMatch([x, w, b]) { $0[0].linear(weight: $0[1], bias: $0[2]) }
        try expectGradientsMatch([x, w]) { $0[0].linear(weight: $0[1]) }
    }

    /// A strided input must be read by its strides.
    @Test func linearOfATransposedInputIsThatOfItsCopy() throws {
        let x = normal([4, 6, 3], 1, on: device)
        let w = normal([2, 4], 2, on: device)
        let strided = x.permuted([2, 1, 0])
        let copy = Tensor(strided.doubles, strided.shape, on: device)
        #expect(strided.linear(weight: w).doubles == copy.linear(weight: w).doubles)
        try expectGradientsMatch([x, w]) { $0[0].permuted([2, 1, 0]).linear(weight: $0[1]) }
    }

    @Test func rmsNormHasUnitRootMeanSquareTimesWeight() throws {
        let x = normal([3, 2, 5], 4, on: device) * 3
        let w = normal([5], 5, on: device)
        let found = x.rmsNorm(weight: w, epsilon: 1e-3).doubles
        let (xs, ws) = (x.doubles, w.doubles)
        for row in 0..<6 {
            let values = xs[row * 5..<row * 5 + 5]
            let scale = 1 / (values.reduce(0) { $0 + $1 * $1 } / 5 + 1e-3).squareRoot()
            for i in 0..<5 { #expect(abs(found[row * 5 + i] - xs[row * 5 + i] * scale * ws[i]) < 1e-13) }
        }
        try expectGradientsMatch([x, w]) { $0[0].rmsNorm(weight: $0[1], epsilon: 1e-3) }
    }

    /// h = x + delta is used on its own, by its norm and by something recorded before the norm, as in a block of a transformer.
    @Test func aResidualsGradientIsTheSumOfAllItsUses() throws {
        let (x, delta) = (normal([3, 2, 5], 4, on: device), normal([3, 2, 5], 5, on: device))
        let w = normal([5], 6, on: device)
        try expectGradientsMatch([x, delta, w]) { inputs in
            let (h, norm) = inputs[0].addingRMSNorm(inputs[1], weight: inputs[2], epsilon: 1e-3)
            return h.squared + norm.sine + inputs[0]
        }
        // The norm alone, and the norm's own input as the first of its uses that comes up.
        try expectGradientsMatch([x, delta, w]) {
            $0[0].addingRMSNorm($0[1], weight: $0[2], epsilon: 1e-3).norm
        }
        try expectGradientsMatch([x, w]) { $0[0].squared + $0[0].rmsNorm(weight: $0[1], epsilon: 1e-3) }
        try expectGradientsMatch([x, w]) { $0[0].rmsNorm(weight: $0[1], epsilon: 1e-3) * $0[0].exponential }
    }

    @Test(arguments: [DType.float32, .bfloat16]) func aResidualsNormHasTheBitsOfAddThenNorm(_ dtype: DType) {
        let (x, delta) = (
            normal([4, 300], 4, on: device).cast(to: dtype), normal([4, 300], 5, on: device).cast(to: dtype)
        )
        let w = normal([300], 6, on: device).cast(to: .float32)
        let (h, norm) = x.addingRMSNorm(delta, weight: w, epsilon: 1e-5)
        #expect(h.doubles == (x + delta).doubles)
        #expect(norm.doubles == (x + delta).rmsNorm(weight: w, epsilon: 1e-5).doubles)
    }

    /// A gradient that two values share, or that repeats one number, is not written in place by a use that adds to it.
    @Test func sharedGradientsAreNotWrittenInPlace() throws {
        let (a, b) = (normal([3, 4], 1, on: device), normal([3, 4], 2, on: device))
        let (w, scale) = (normal([4, 4], 3, on: device), normal([4], 4, on: device))
        try expectGradientsMatch([a, b, w]) { inputs in
            let y = inputs[0].linear(weight: inputs[2])
            return inputs[0] + inputs[1] + y
        }
        try expectGradientsMatch([a, b, scale]) { inputs in
            let y = inputs[0].rmsNorm(weight: inputs[2], epsilon: 1e-3)
            return inputs[0] + inputs[1] + y
        }
        try expectGradientsMatch([a, w]) { inputs in
            let y = inputs[0].linear(weight: inputs[1])
            return inputs[0].sum() + y
        }
        try expectGradientsMatch([w]) { $0[0].linear(weight: $0[0]) + $0[0] }
    }

    /// Three maps of one input, as queries, keys and values are: their gradients are added by the products.
    @Test func theUsesOfAnInputHaveOneGradient() throws {
        let x = normal([2, 3, 4], 1, on: device)
        let weights = (0..<3).map { normal([5, 4], UInt64(2 + $0), on: device) }
        try expectGradientsMatch([x] + weights) { inputs in
            inputs[1...].map { inputs[0].linear(weight: $0) }.reduce(inputs[0].sum()) { $0 + $1.squared }
        }
        let large = normal([2048, 64], 1, on: device)
        let thin = (0..<3).map { normal([1, 64], UInt64(2 + $0), on: device) }
        let peak = try peakBytes(on: device) {
            _ = try valueAndGradient(at: [large]) { leaves in
                thin.map { leaves[0].linear(weight: $0) }.reduce(.zeros([1], .float64, on: device)) { $0 + $1 }.sum()
            }
        }
        #expect(peak < large.byteCount * 5 / 4, "\(peak) bytes, the gradient is \(large.byteCount)")
    }

    @Test func layerNormHasMeanZeroAndVarianceOneBeforeScaleAndShift() throws {
        let x = normal([3, 7], 6, on: device) * 2 + 1
        let w = normal([7], 7, on: device)
        let b = normal([7], 8, on: device)
        let found = x.layerNorm(weight: w, bias: b, epsilon: 1e-3).doubles
        let (xs, ws, bs) = (x.doubles, w.doubles, b.doubles)
        for row in 0..<3 {
            let values = xs[row * 7..<row * 7 + 7]
            let mean = values.reduce(0, +) / 7
            let scale = 1 / (values.reduce(0) { $0 + ($1 - mean) * ($1 - mean) } / 7 + 1e-3).squareRoot()
            for i in 0..<7 {
                #expect(abs(found[row * 7 + i] - ((xs[row * 7 + i] - mean) * scale * ws[i] + bs[i])) < 1e-13)
            }
        }
        try expectGradientsMatch([x, w, b]) { $0[0].layerNorm(weight: $0[1], bias: $0[2], epsilon: 1e-3) }
    }

    @Test func rotaryTurnsHalfAgainstHalf() throws {
        let x = normal([2, 3, 2, 6], 9, on: device)
        let rope = try RotaryEmbedding(headSize: 6, base: 100)
        let positions = Tensor([Int32(5), 0, 7, 1, 2, 3], [2, 3], on: device)
        let tables = rope.tables(positions: positions, .float64)
        let found = x.rotary(tables).doubles
        let (xs, ps) = (x.doubles, positions.values(Int32.self))
        for bt in 0..<6 {
            for h in 0..<2 {
                for i in 0..<3 {
                    let angle = Double(ps[bt]) * pow(100, -2 * Double(i) / 6)
                    let at = (bt * 2 + h) * 6 + i
                    #expect(abs(found[at] - (xs[at] * cos(angle) - xs[at + 3] * sin(angle))) < 1e-13)
                    #expect(abs(found[at + 3] - (xs[at + 3] * cos(angle) + xs[at] * sin(angle))) < 1e-13)
                }
            }
        }
        try expectGradientsMatch([x]) { $0[0].rotary(tables) }
        let shared = rope.tables(positions: Tensor([Int32(4), 9, 2], [1, 3], on: device), .float64)
        try expectGradientsMatch([x]) { $0[0].rotary(shared) }
    }

    /// A projection that nothing else holds is turned where it lies, in both passes nothing is lost, and a value that is kept stays as it was.
    @Test func rotaryWritesOnlyWhatNothingElseHolds() throws {
        let (x, w) = (normal([2, 3, 5], 1, on: device), normal([12, 5], 2, on: device))
        let tables = try RotaryEmbedding(headSize: 6, base: 100).tables(
            positions: Tensor([Int32(4), 9, 2], [1, 3], on: device), .float64)
        let kept = x.linear(weight: w).reshaped([2, 3, 2, 6])
        let before = kept.doubles
        let expected = kept.rotary(tables).doubles
        #expect(kept.doubles == before && expected != before)

        let allocations = device.ledger.allocations
        let turned = x.linear(weight: w).reshaped([2, 3, 2, 6]).rotary(tables)
        #expect(device.ledger.allocations - allocations == 1)
        #expect(turned.doubles == expected)
        try expectGradientsMatch([x, w]) { $0[0].linear(weight: $0[1]).reshaped([2, 3, 2, 6]).rotary(tables) }
        try expectGradientsMatch([x, w]) {
            let q = $0[0].linear(weight: $0[1]).reshaped([2, 3, 2, 6])
            return q.rotary(tables) * q
        }
    }

    @Test func swiGLUIsSiluOfGateTimesUp() throws {
        let gate = normal([4, 5], 10, on: device) * 2
        let up = normal([4, 5], 11, on: device)
        let found = Tensor.swiGLU(gate, up).doubles
        for (value, (a, b)) in zip(found, zip(gate.doubles, up.doubles)) {
            #expect(abs(value - a / (1 + exp(-a)) * b) < 1e-13)
        }
        try expectGradientsMatch([gate, up]) { .swiGLU($0[0], $0[1]) }
    }

    @Test func crossEntropyIsTheSumOfNegativeLogProbabilities() throws {
        let logits = normal([2, 3, 7], 12, on: device) * 6
        let targets = Tensor([Int32(0), 6, -100, 3, -1, 2], [2, 3], on: device)
        let xs = logits.doubles
        var expected = 0.0
        for (row, target) in targets.values(Int32.self).enumerated() where target >= 0 {
            let values = xs[row * 7..<row * 7 + 7]
            expected += log(values.reduce(0) { $0 + exp($1) }) - xs[row * 7 + Int(target)]
        }
        #expect(abs(logits.crossEntropy(targets: targets).item - expected) < 1e-12)
        try expectGradientsMatch([logits]) { $0[0].crossEntropy(targets: targets) * 0.7 }
    }

    /// Exactly zero, also where the ignored row holds no usable numbers.
    @Test func ignoredTargetsHaveExactlyZeroGradient() throws {
        let values: [Float] = [1, 2, .nan, .infinity, 3, 1]
        let logits = Tensor(values, [3, 2], on: device)
        let targets = Tensor([Int32(1), -1, 0], on: device)
        let (value, gradients) = try valueAndGradient(at: [logits]) { $0[0].crossEntropy(targets: targets) }
        let g = gradients[0].doubles
        #expect(value.item.isFinite && value.dtype == .float32)
        #expect(g[2] == 0 && g[3] == 0)
        #expect(g[0] > 0.1 && g[1] < -0.1)
    }

    @Test func halfPrecisionLogitsAreWidenedBeforeTheLoss() {
        let logits = (normal([5, 300], 13, on: device) * 3).cast(to: .bfloat16)
        let targets = Tensor((0..<5).map { Int32($0 * 50) }, on: device)
        let loss = logits.crossEntropy(targets: targets)
        let expected = logits.cast(to: .float64).crossEntropy(targets: targets).item
        #expect(loss.dtype == .float32)
        #expect(abs(loss.item - expected) < 1e-5 * expected)
    }
}
