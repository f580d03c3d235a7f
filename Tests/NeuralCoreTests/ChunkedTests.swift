import NeuralCore
import TensorCore
import Testing

/// Chunked forms equal the whole ones, and keep their promise on memory.
@Suite struct ChunkedTests {
    let device = makeDevice()

    @Test(arguments: [1, 5, 7, 16, 21, 100]) func chunkedFeedForwardEqualsWhole(chunk: Int) throws {
        let x = normal([3, 7, 4], 1, on: device)
        for layer in [true, false] {
            func check<F: FeedForward>(_ layer: F) throws {
                let g = normal([3, 7, 4], 2, on: device)
                func run(_ chunk: ChunkSize) throws -> (Tensor, [Tensor]) {
                    let inputs = layer.parameters.map { $0.tensor } + [x]
                    let (value, gradients) = try valueAndGradient(at: inputs) { inputs in
                        var copy = layer
                        var index = 0
                        copy.forEachParameter { _, parameter in
                            parameter = inputs[index]
                            index += 1
                        }
                        return (try copy(inputs[index], chunk: chunk) * g).sum()
                    }
                    return (value, gradients)
                }
                let (value, gradients) = try run(.tokens(chunk))
                let (wholeValue, wholeGradients) = try run(.whole)
                #expect(abs(value.item - wholeValue.item) < 1e-12)
                for (a, b) in zip(gradients, wholeGradients) { #expect(largestDifference(a, b) < 1e-12) }
            }
            if layer {
                try check(randomised(SwiGLUFeedForward(width: 4, hiddenSize: 6, .float64, on: device)))
            } else {
                try check(randomised(GELUFeedForward(width: 4, hiddenSize: 6, .float64, on: device)))
            }
        }
    }

    @Test func chunkedFeedForwardInFloat32IsWithinOneMillionth() throws {
        let layer = randomised(
            SwiGLUFeedForward(width: 32, hiddenSize: 96, on: device), standardDeviation: 0.2)
        let x = normal([2, 150, 32], 1, on: device).cast(to: .float32)
        func run(_ chunk: ChunkSize) throws -> [Tensor] {
            let (_, gradient) = try valueAndGradient(at: layer) { try $0(x, chunk: chunk).squared.sum() }
            return gradient.parameters.map { $0.tensor } + [try layer(x, chunk: chunk)]
        }
        for (a, b) in zip(try run(.tokens(32)), try run(.whole)) {
            #expect(largestDifference(a, b) < 1e-6 * largest(b))
        }
    }

    /// A frozen layer, or a constant input, must not stop the other's gradient.
    @Test func chunkedFeedForwardWithFrozenWeightsOrConstantInput() throws {
        let layer = randomised(SwiGLUFeedForward(width: 4, hiddenSize: 6, .float64, on: device))
        let x = normal([9, 4], 1, on: device)
        let (_, dx) = try valueAndGradient(at: [x]) { try layer($0[0], chunk: .tokens(2)).sum() }
        let (_, expected) = try valueAndGradient(at: [x]) { layer($0[0]).sum() }
        #expect(largestDifference(dx[0], expected[0]) < 1e-12 && largest(dx[0]) > 0.01)
        let (_, dw) = try valueAndGradient(at: layer) { try $0(x, chunk: .tokens(2)).sum() }
        let (_, dwExpected) = try valueAndGradient(at: layer) { $0(x).sum() }
        for (a, b) in zip(dw.parameters, dwExpected.parameters) {
            #expect(largestDifference(a.tensor, b.tensor) < 1e-12 && largest(a.tensor) > 0.01)
        }
    }

    /// F = 16 M. Doubling the tokens may add rows of width M (input, output, their gradients), never a row of width F.
    @Test func hiddenLayerNeverExistsForTheWholeSequence() throws {
        let (width, hidden) = (16, 256)
        let layer = randomised(SwiGLUFeedForward(width: width, hiddenSize: hidden, on: device))
        func peak(_ tokens: Int, _ chunk: ChunkSize) throws -> Int {
            let x = Tensor.ones([1, tokens, width], on: device)
            return try peakBytes(on: device) {
                _ = try valueAndGradient(at: layer) { try $0(x, chunk: chunk).sum() }
            }
        }
        let rowBytes = width * 4
        let growth = try peak(2048, .tokens(64)) - peak(1024, .tokens(64))
        #expect(growth <= 3 * 1024 * rowBytes)
        let wholeGrowth = try peak(2048, .whole) - peak(1024, .whole)
        #expect(wholeGrowth >= 3 * 1024 * hidden * 4)
    }

    /// One buffer for each weight's gradient, and the gradients of one chunk, whatever the number of chunks.
    @Test func weightGradientsDoNotMultiplyWithChunks() throws {
        let layer = randomised(SwiGLUFeedForward(width: 64, hiddenSize: 256, on: device))
        let x = Tensor.ones([1, 64, 64], on: device)
        let weightBytes = 64 * 256 * 4
        for chunk in [4, 32] {
            let peak = try peakBytes(.gradients, on: device) {
                _ = try valueAndGradient(at: layer) { try $0(x, chunk: .tokens(chunk)).sum() }
            }
            #expect(peak == 6 * weightBytes)
        }
    }

    @Test func chunksAreEvenAndAutomaticOnesBoundTheirBytes() {
        #expect(ChunkSize.whole.rows(of: 100, bytesPerRow: 1 << 30) == 100)
        #expect(ChunkSize.tokens(64).rows(of: 100, bytesPerRow: 4) == 50)
        #expect(ChunkSize.tokens(64).rows(of: 64, bytesPerRow: 4) == 64)
        #expect(ChunkSize.tokens(7).rows(of: 0, bytesPerRow: 4) == 1)
        // 64 MiB at most, but never fewer than 64 tokens.
        #expect(ChunkSize.auto.rows(of: 1 << 20, bytesPerRow: 4 * 11008) * 4 * 11008 <= 64 << 20)
        #expect(ChunkSize.auto.rows(of: 1 << 20, bytesPerRow: 4 * 11008) > 1400)
        #expect(ChunkSize.auto.rows(of: 1 << 20, bytesPerRow: 1 << 30) == 64)
        #expect(ChunkSize.auto.rows(of: 1000, bytesPerRow: 4096) == 1000)
    }

    @Test func aCapturedTensorThatNeedsAGradientIsRefused() throws {
        let layer = Linear(inputs: 4, outputs: 4, .float64, on: device)
        let x = normal([6, 4], 1, on: device)
        let error = #expect(throws: RingZooError.self) {
            try valueAndGradient(at: [normal([4], 2, on: device)]) { leaves in
                let captured = leaves[0]
                return try blockwise(layer, x, chunk: .tokens(2), bytesPerToken: 32) { $0($1) + captured }.sum()
            }
        }
        #expect(error?.message.contains("not one of its arguments") == true)
    }

    @Test(arguments: [1, 4, 5, 10, 64]) func chunkedCrossEntropyEqualsHeadThenLoss(chunk: Int) throws {
        let hidden = normal([2, 5, 4], 1, on: device)
        let weight = normal([7, 4], 2, on: device)
        let targets = Tensor([Int32(0), -1, 6, 3, 3, -100, 2, 1, 5, -1], [2, 5], on: device)
        let chunked = try valueAndGradient(at: [hidden, weight]) {
            try chunkedCrossEntropy(hidden: $0[0], weight: $0[1], targets: targets, chunk: .tokens(chunk)) * 0.3
        }
        let whole = try valueAndGradient(at: [hidden, weight]) {
            $0[0].linear(weight: $0[1]).crossEntropy(targets: targets) * 0.3
        }
        #expect(abs(chunked.value.item - whole.value.item) < 1e-12)
        for (a, b) in zip(chunked.gradients, whole.gradients) { #expect(largestDifference(a, b) < 1e-13) }
        // Rows of ignored targets.
        for row in [1, 5, 9] {
            #expect(chunked.gradients[0].reshaped([10, 4]).slice(axis: 0, row..<row + 1).doubles == [0, 0, 0, 0])
        }
        try expectGradientsMatch([hidden, weight]) {
            try chunkedCrossEntropy(hidden: $0[0], weight: $0[1], targets: targets, chunk: .tokens(chunk))
        }
    }

    /// Under a master weight the products take half-precision factors, but logits are float32 sums that are not rounded: a loss of
    /// rounded logits would be 1e-3 off.
    @Test(arguments: [1, 4, 64]) func chunkedCrossEntropyInHalfPrecisionRoundsFactorsOnly(chunk: Int) throws {
        let hidden = normal([2, 5, 64], 1, on: device).cast(to: .bfloat16)
        let weight = normal([7, 64], 2, on: device).cast(to: .float32)
        let targets = Tensor([Int32(0), -1, 6, 3, 3, -100, 2, 1, 5, -1], [2, 5], on: device)
        let found = try valueAndGradient(at: [hidden, weight]) {
            try chunkedCrossEntropy(hidden: $0[0], weight: $0[1], targets: targets, chunk: .tokens(chunk))
        }
        #expect(found.value.dtype == .float32)
        #expect(found.gradients.map(\.dtype) == [.bfloat16, .float32])
        let factors = [hidden, weight.cast(to: .bfloat16)].map { $0.cast(to: .float64) }
        let truth = try valueAndGradient(at: factors) { $0[0].linear(weight: $0[1]).crossEntropy(targets: targets) }
        #expect(abs(found.value.item / truth.value.item - 1) < 1e-6)
        // Two roundings to 8 bits, of the logits' gradients and (of the states') of the result.
        for (a, b) in zip(found.gradients, truth.gradients) {
            let difference = a.cast(to: .float64) - b
            #expect((difference.sumOfSquares() / b.sumOfSquares()).squareRoot() < 4e-3)
        }
    }

    /// A rank may hold none of a short sequence's tokens.
    @Test func noTokensHaveNoLossAndNoGradient() throws {
        let weight = normal([7, 4], 2, on: device)
        let (hidden, targets) = (normal([1, 0, 4], 1, on: device), Tensor([Int32](), [1, 0], on: device))
        // The device hands this memory out again: what is not written would be seen.
        do { _ = Tensor.full(weight.shape, .nan, weight.dtype, on: device) }
        let result = try valueAndGradient(at: [weight]) {
            try chunkedCrossEntropy(hidden: hidden, weight: $0[0], targets: targets, chunk: .tokens(4))
        }
        #expect(result.value.item == 0)
        #expect(result.gradients[0].doubles == [Double](repeating: 0, count: 28))
    }

    @Test func chunkedCrossEntropyWithAFrozenHeadOrConstantHidden() throws {
        let hidden = normal([1, 6, 4], 1, on: device)
        let weight = normal([7, 4], 2, on: device)
        let targets = Tensor([Int32(0), 1, 6, 3, 3, 2], [1, 6], on: device)
        let both = try valueAndGradient(at: [hidden, weight]) {
            try chunkedCrossEntropy(hidden: $0[0], weight: $0[1], targets: targets, chunk: .tokens(4))
        }
        let first = try valueAndGradient(at: [hidden]) {
            try chunkedCrossEntropy(hidden: $0[0], weight: weight, targets: targets, chunk: .tokens(4))
        }
        let second = try valueAndGradient(at: [weight]) {
            try chunkedCrossEntropy(hidden: hidden, weight: $0[0], targets: targets, chunk: .tokens(4))
        }
        #expect(first.gradients[0].doubles == both.gradients[0].doubles)
        #expect(second.gradients[0].doubles == both.gradients[1].doubles)
    }

    /// V = 32 M: doubling the tokens may add the gradient of `hidden` and 8 bytes of loss and 4 of target per row, not logits.
    @Test func logitsNeverExistWhole() throws {
        let (width, vocabulary) = (8, 256)
        let weight = normal([vocabulary, width], 1, on: device).cast(to: .float32)
        func peak(_ tokens: Int, chunked: Bool) throws -> Int {
            let hidden = Tensor.ones([1, tokens, width], on: device)
            let targets = Tensor([Int32](repeating: 3, count: tokens), [1, tokens], on: device)
            return try peakBytes(on: device) {
                _ = try valueAndGradient(at: [hidden, weight]) {
                    chunked
                        ? try chunkedCrossEntropy(hidden: $0[0], weight: $0[1], targets: targets, chunk: .tokens(32))
                        : $0[0].linear(weight: $0[1]).crossEntropy(targets: targets)
                }
            }
        }
        #expect(try peak(2048, chunked: true) - peak(1024, chunked: true) <= 1024 * (width * 4 + 12))
        #expect(try peak(2048, chunked: false) - peak(1024, chunked: false) >= 2 * 1024 * vocabulary * 4)
        // Evaluation holds no gradient at all.
        let hidden = Tensor.ones([1, 2048, width], on: device)
        let targets = Tensor([Int32](repeating: 3, count: 2048), [1, 2048], on: device)
        let evaluation = try peakBytes(on: device) {
            _ = try chunkedCrossEntropy(hidden: hidden, weight: weight, targets: targets, chunk: .tokens(32))
        }
        #expect(evaluation <= 2048 * 8 + 32 * vocabulary * 4 + 64)
    }
}
