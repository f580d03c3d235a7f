import Foundation
import NeuralCore
import TensorCore
import Testing

/// Expected values were computed with 40 digits.
@Suite struct RotaryEmbeddingTests {
    let device = makeDevice()

    private func expectClose(_ found: Double, _ expected: Double, sourceLocation: SourceLocation = #_sourceLocation) {
        #expect(abs(found - expected) <= 1e-13 * abs(expected), sourceLocation: sourceLocation)
    }

    /// Frequencies are 1, 0.1, 0.01, 0.001. Half a unit in the last place of float32 below 1 is 3.0e-8; the angle's own rounding
    /// adds less than 3e-9 at ten million.
    @Test func anglesAreRightAtOneAndTenMillion() throws {
        let rope = try RotaryEmbedding(headSize: 8)
        let tables = rope.tables(positions: Tensor([Int32(1_000_000), 10_000_000], [1, 2], on: device))
        let cosines = [
            0.93675212753314478694, -0.99936080743821245189, -0.95215536825901485124, 0.56237907629070299108,
            -0.90727038618173956116, 0.93675212753314478694, -0.99936080743821245189, -0.95215536825901485124,
        ]
        let sines = [
            -0.34999350217129295212, 0.035748797972016509316, -0.30561438888825214136, 0.82687954053200256026,
            0.4205477931907824913, -0.34999350217129295212, 0.035748797972016509316, -0.30561438888825214136,
        ]
        #expect(tables.cosine.shape == [1, 2, 4] && tables.cosine.dtype == .float32)
        for (found, expected) in zip(tables.cosine.doubles + tables.sine.doubles, cosines + sines) {
            #expect(abs(found - expected) < 3.3e-8)
        }
    }

    @Test func positionsOfEachBatchRowAreTheirOwn() throws {
        let rope = try RotaryEmbedding(headSize: 4, base: 100)
        let tables = rope.tables(positions: Tensor([Int32(0), 1, 2, 0], [2, 2], on: device), .float64)
        let expected = [0, 0, 1, 0.1, 2, 0.2, 0, 0].map { cos($0) }
        for (found, expected) in zip(tables.cosine.doubles, expected) { #expect(abs(found - expected) < 1e-15) }
    }

    @Test func linearScalingDividesFrequencies() throws {
        let plain = try RotaryEmbedding(headSize: 16).inverseFrequencies
        let scaled = try RotaryEmbedding(headSize: 16, scaling: .linear(factor: 4)).inverseFrequencies
        for (a, b) in zip(plain, scaled) { expectClose(b, a / 4) }
    }

    @Test func dynamicNTKRaisesTheBaseBeyondTheOriginalLengthOnly() throws {
        func frequencies(_ length: Int) throws -> [Double] {
            try RotaryEmbedding(
                headSize: 64, scaling: .dynamicNTK(factor: 4, length: length, originalLength: 4096)
            ).inverseFrequencies
        }
        let long = try frequencies(16384)
        expectClose(long[1], 0.69034525395817813492)
        expectClose(long[16], 0.0026611018419870069079)
        expectClose(long[31], 0.00001025785717048710789)
        #expect(try frequencies(1000) == RotaryEmbedding(headSize: 64).inverseFrequencies)
    }

    @Test func yarnBlendsBetweenKeptAndDividedFrequencies() throws {
        let rope = try RotaryEmbedding(headSize: 64, scaling: .yarn(.init(factor: 4, originalLength: 4096)))
        let expected = [
            0: 1, 5: 0.23713737056616552617, 10: 0.056234132519034908039, 12: 0.027973994686104894091,
            15: 0.0094885178827005747981, 20: 0.0013378867023789297174, 24: 0.00025, 31: 0.000033338035804083100642,
        ]
        for (index, value) in expected { expectClose(rope.inverseFrequencies[index], value) }
        // Cosine and sine carry the attention factor: their squares sum to its square.
        let tables = rope.tables(positions: Tensor([Int32(12345)], [1, 1], on: device), .float64)
        for (c, s) in zip(tables.cosine.doubles, tables.sine.doubles) {
            expectClose((c * c + s * s).squareRoot(), 1.1386294361119890619)
        }
    }

    @Test func yarnAttentionFactorFollowsMscaleUnlessStated() {
        var yarn = RotaryScaling.YaRN(factor: 4, originalLength: 4096)
        expectClose(yarn.resolvedAttentionFactor, 1.1386294361119890619)
        yarn.mscale = 0.707
        expectClose(yarn.resolvedAttentionFactor, 1.1386294361119890619)
        yarn.mscaleAllDimensions = 0.5
        expectClose(yarn.resolvedAttentionFactor, 1.0268361529030025546)
        yarn.attentionFactor = 1.25
        #expect(yarn.resolvedAttentionFactor == 1.25)
        #expect(RotaryScaling.YaRN(factor: 0.5, originalLength: 4096).resolvedAttentionFactor == 1)
    }

    @Test func llama3KeepsFastStretchesSlowAndBlendsBetween() throws {
        let rope = try RotaryEmbedding(headSize: 128, base: 500_000, scaling: .llama3(.init()))
        let expected = [
            0: 1, 20: 0.016560440080994445549, 28: 0.0032114459947525910185, 30: 0.0013718935677611381604,
            32: 0.00052484616099295466973, 34: 0.00017850781276799641852, 36: 0.000077846552739324497444,
            63: 3.0689259889145110891e-7,
        ]
        for (index, value) in expected { expectClose(rope.inverseFrequencies[index], value) }
    }

    @Test func valuesThatMakeNoSenseAreRefused() {
        let bad: [(Int, Double, RotaryScaling)] = [
            (7, 1e4, .none), (0, 1e4, .none), (8, 1, .none), (8, .nan, .none), (8, 1e4, .linear(factor: 0)),
            (8, 1e4, .linear(factor: .infinity)), (2, 1e4, .dynamicNTK(factor: 2, length: 8, originalLength: 4)),
            (8, 1e4, .dynamicNTK(factor: 2, length: 8, originalLength: 0)),
            (8, 1e4, .yarn(.init(factor: -1, originalLength: 4))),
            (8, 1e4, .llama3(.init(lowFrequencyFactor: 4, highFrequencyFactor: 4))),
        ]
        for (size, base, scaling) in bad {
            let error = #expect(throws: RingZooError.self) {
                try RotaryEmbedding(headSize: size, base: base, scaling: scaling)
            }
            #expect(error?.code == .config)
        }
    }
}
