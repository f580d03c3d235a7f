import NeuralCore
import TensorCore
import Testing

/// A small language model without attention: enough to join every layer.
struct TokenModel: Module {
    var embedding: Embedding
    var norm: RMSNorm
    var feedForward: SwiGLUFeedForward
    var last: LayerNorm
    /// nil where the head is the embedding.
    var head: Linear?

    init(
        vocabulary: Int, width: Int, hiddenSize: Int, tied: Bool, _ dtype: DType = .float32, on device: any Device
    ) {
        embedding = Embedding(vocabulary: vocabulary, width: width, dtype, on: device)
        norm = RMSNorm(width: width, dtype, on: device)
        feedForward = SwiGLUFeedForward(width: width, hiddenSize: hiddenSize, dtype, on: device)
        last = LayerNorm(width: width, dtype, on: device)
        head = tied ? nil : Linear(inputs: width, outputs: vocabulary, dtype, on: device)
    }

    func hidden(_ tokens: Tensor, _ precision: Precision) -> Tensor {
        let x = embedding(tokens, precision)
        return last(x + feedForward(norm(x)))
    }

    func loss(_ tokens: Tensor, _ targets: Tensor, _ precision: Precision) throws -> Tensor {
        try chunkedCrossEntropy(
            hidden: hidden(tokens, precision), weight: head?.weight ?? embedding.weight, targets: targets,
            chunk: .tokens(3))
    }

    mutating func visit(_ visitor: inout ParameterVisitor) {
        visitor("embed_tokens", &embedding)
        visitor("norm", &norm)
        visitor("mlp", &feedForward)
        visitor("last", &last)
        visitor("lm_head", &head)
    }
}

@Suite struct LayerTests {
    let device = makeDevice()

    @Test func everyLayersGradientsMatchDifferences() throws {
        let x = normal([2, 3, 4], 1, on: device)
        try expectGradientsMatch(
            randomised(Linear(inputs: 4, outputs: 5, bias: true, .float64, on: device)), x
        ) { $0($1) }
        try expectGradientsMatch(randomised(RMSNorm(width: 4, .float64, on: device)), x) { $0($1) }
        try expectGradientsMatch(randomised(LayerNorm(width: 4, .float64, on: device)), x) { $0($1) }
        for bias in [false, true] {
            try expectGradientsMatch(
                randomised(SwiGLUFeedForward(width: 4, hiddenSize: 6, bias: bias, .float64, on: device)), x
            ) { $0($1) }
        }
        for form in GELUFeedForward.Form.allCases {
            try expectGradientsMatch(
                randomised(GELUFeedForward(width: 4, hiddenSize: 6, form: form, .float64, on: device)), x
            ) { $0($1) }
        }
        let tokens = Tensor([Int32(1), 4, 1, 0], [2, 2], on: device)
        try expectGradientsMatch(
            randomised(Embedding(vocabulary: 5, width: 4, .float64, on: device)), normal([2, 2, 4], 2, on: device)
        ) { $0(tokens, .float64) * $1 }
    }

    /// The embedding's weight is used twice; its gradient is the sum of both uses.
    @Test func tiedWeightHasTheSummedGradient() throws {
        let model = randomised(
            TokenModel(vocabulary: 5, width: 4, hiddenSize: 3, tied: true, .float64, on: device))
        let tokens = Tensor([Int32(1), 4, 1, 0], [1, 4], on: device)
        let targets = Tensor([Int32(4), 1, -1, 2], [1, 4], on: device)
        try expectGradientsMatch(model, normal([1], 3, on: device)) { model, one in
            try model.loss(tokens, targets, .float64) * one
        }
    }

    @Test func visitCoversEveryTensorField() {
        let device = device
        expectVisitIsComplete(Linear(inputs: 2, outputs: 3, bias: true, on: device))
        expectVisitIsComplete(Linear(inputs: 2, outputs: 3, on: device))
        expectVisitIsComplete(Embedding(vocabulary: 2, width: 3, on: device))
        expectVisitIsComplete(RMSNorm(width: 3, on: device))
        expectVisitIsComplete(LayerNorm(width: 3, on: device))
        expectVisitIsComplete(SwiGLUFeedForward(width: 2, hiddenSize: 3, bias: true, on: device))
        expectVisitIsComplete(GELUFeedForward(width: 2, hiddenSize: 3, on: device))
        expectVisitIsComplete(TokenModel(vocabulary: 3, width: 2, hiddenSize: 3, tied: false, on: device))
    }

    @Test func namesAreThoseOfCheckpoints() {
        let names = TokenModel(vocabulary: 3, width: 2, hiddenSize: 3, tied: false, on: device).parameters.map {
            $0.name
        }
        #expect(
            names == [
                "embed_tokens.weight", "norm.weight", "mlp.gate_proj.weight", "mlp.up_proj.weight",
                "mlp.down_proj.weight", "last.weight", "last.bias", "lm_head.weight",
            ])
    }

    @Test func bfloat16ComputesInHalfAndLeavesGradientsInFloat32() throws {
        var model = TokenModel(vocabulary: 11, width: 16, hiddenSize: 32, tied: false, on: device)
        model.initialise(seed: 1) { _, shape in shape.count >= 2 ? 0.3 : nil }
        let tokens = Tensor((0..<24).map { Int32($0 * 7 % 11) }, [2, 12], on: device)
        let targets = Tensor((0..<24).map { Int32($0 * 5 % 11) }, [2, 12], on: device)
        #expect(model.hidden(tokens, .bfloat16).dtype == .bfloat16)
        let half = try valueAndGradient(at: model) { try $0.loss(tokens, targets, .bfloat16) }
        let full = try valueAndGradient(at: model) { try $0.loss(tokens, targets, .float32) }
        #expect(half.value.dtype == .float32)
        // 8 bits of mantissa through four layers.
        #expect(abs(half.value.item - full.value.item) < 0.02 * full.value.item)
        for (a, b) in zip(half.gradient.parameters, full.gradient.parameters) {
            #expect(a.tensor.dtype == .float32, "\(a.name)")
            let difference = (a.tensor - b.tensor).sumOfSquares().squareRoot()
            #expect(difference < 0.05 * b.tensor.sumOfSquares().squareRoot(), "\(a.name)")
            #expect(difference > 0, "\(a.name) was not computed in half precision")
        }
    }

    /// A master weight's gradient keeps the bits that bfloat16 has no room for.
    @Test func weightGradientUnderBfloat16IsNotRounded() throws {
        let x = normal([64, 3], 1, on: device).cast(to: .bfloat16)
        let g = normal([64, 2], 2, on: device).cast(to: .bfloat16)
        let w = normal([2, 3], 3, on: device).cast(to: .float32)
        let (_, gradients) = try valueAndGradient(at: [w]) { (x.linear(weight: $0[0]) * g).cast(to: .float32).sum() }
        let exact = Tensor.matmul(g.cast(to: .float64).transposed(), x.cast(to: .float64))
        #expect(gradients[0].dtype == .float32)
        #expect(largestDifference(gradients[0], exact) < 1e-5)
        #expect(largestDifference(gradients[0].cast(to: .bfloat16), exact) > 1e-3)
    }

    @Test func precisionIsNamedAsInConfigurations() throws {
        #expect(try Precision(named: "float32") == .float32)
        #expect(try Precision(named: "bf16") == .bfloat16)
        #expect(Precision.bfloat16.master == .float32 && Precision.bfloat16.statistics == .float32)
        #expect(throws: RingZooError.self) { try Precision(named: "fp8") }
    }
}
