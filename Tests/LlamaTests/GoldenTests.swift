import NeuralCore
import TensorCore
import Testing

@testable import Llama

/// Agreement with transformers; see `Tests/Fixtures/README.md` for how the numbers were made.
@Suite struct GoldenTests {
    let device = CPUDevice(threads: 1)

    /// Golden values are float64 results rounded to float32 once: that rounding, and 1e-9 of our own.
    private func rounding(_ value: Double) -> Double { abs(value) * 0x1p-24 + 1e-9 }

    @Test(arguments: goldenModels, Attention.allCases)
    func logitsAreTransformers(_ name: String, _ attention: Attention) throws {
        let golden = try Golden(name, on: device)
        let expected = try golden.values("logits")
        for (dtype, precision) in [(DType.float32, Precision.float32), (.float64, .float64)] {
            let model = try loadGolden(name, dtype, on: device)
            let context = wholeContext(golden.tokens.shape[1], attention.backend, precision, on: device)
            var none: KeyValueCache?
            let logits = try model.logits(golden.tokens, context, cache: &none)
            #expect(logits.shape == golden.tokens.shape + [model.vocabularySize] && logits.dtype == dtype)
            let found = logits.doubles
            switch dtype {
            case .float64:
                let isRight = zip(found, expected).allSatisfy { abs($0 - $1) <= rounding($1) }
                #expect(isRight, "float64 differs by \(largestDifference(found, expected))")
            default: #expect(largestDifference(found, expected) <= 1e-5)
            }
        }
    }

    @Test(arguments: Attention.allCases)
    func lossAndEveryGradientAreTransformers(_ attention: Attention) throws {
        let golden = try Golden("llama-mha", on: device)
        let names = try HuggingFaceLlama.names()
        let (tokens, targets) = (golden.tokens, golden.targets)
        let count = Double(targets.values(Int32.self).count { $0 >= 0 })
        #expect(count == 46)
        for (dtype, precision) in [(DType.float32, Precision.float32), (.float64, .float64)] {
            let model = try loadGolden("llama-mha", dtype, on: device)
            let context = wholeContext(tokens.shape[1], attention.backend, precision, on: device)
            let (loss, gradient) = try valueAndGradient(at: model) { model in
                try model.loss(tokens, targets: targets, context) / count
            }
            let expectedLoss = try golden.values("loss")[0]
            #expect(abs(loss.item - expectedLoss) <= (dtype == .float64 ? rounding(expectedLoss) : 1e-5 * expectedLoss))
            #expect(gradient.parameters.count == 2 * 9 + 3)
            for (name, tensor) in gradient.parameters {
                let theirs = try #require(names.theirs("model." + name))
                let expected = try golden.values("gradient." + theirs)
                let found = tensor.doubles
                switch dtype {
                case .float64:
                    let bound = 1e-9 * largest(expected)
                    let isRight =
                        found.count == expected.count
                        && zip(found, expected).allSatisfy { abs($0 - $1) <= abs($1) * 0x1p-24 + bound }
                    #expect(isRight, "\(name), float64, differs by \(largestDifference(found, expected))")
                default:
                    #expect(largestDifference(found, expected) <= 1e-5 * largest(expected), "\(name), float32")
                }
            }
        }
    }

    /// Compute in bfloat16 rounds some ten times a layer to 8 bits: an RMS of a few parts in a thousand each, of the logits' spread 2.
    @Test(arguments: Attention.allCases)
    func halfPrecisionIsNearFloat32(_ attention: Attention) throws {
        let golden = try Golden("llama-gqa-llama3-rope", on: device)
        let model = try loadGolden("llama-gqa-llama3-rope", on: device)
        func run(_ precision: Precision) throws -> (loss: Double, gradient: [String: [Double]], logits: [Double]) {
            let context = wholeContext(golden.tokens.shape[1], attention.backend, precision, on: device)
            let (loss, gradient) = try valueAndGradient(at: model) { model in
                try model.loss(golden.tokens, targets: golden.targets, context) / 46
            }
            for (name, tensor) in gradient.parameters { #expect(tensor.dtype == .float32, "\(name)") }
            var none: KeyValueCache?
            return (loss.item, gradient.parameterValues, try model.logits(golden.tokens, context, cache: &none).doubles)
        }
        let (wide, half) = (try run(.float32), try run(.bfloat16))
        let squares = zip(wide.logits, half.logits).reduce(0) { $0 + ($1.0 - $1.1) * ($1.0 - $1.1) }
        let deviation = (squares / Double(wide.logits.count)).squareRoot()
        #expect(deviation > 1e-4 && deviation < 0.05 * 2, "RMS \(deviation)")
        #expect(abs(wide.loss - half.loss) < 0.02 * wide.loss)
        let worst = worstGradient(wide.gradient, half.gradient)
        #expect(worst.difference < 0.1, "\(worst)")
    }
}
