import AttentionCore
import NeuralCore
import TensorCore
import Testing
import ZooCore

@testable import Llama

@Suite struct ModelTests {
    let device = CPUDevice(threads: 1)

    /// Every tensor that reflection finds in a value: the path to it, and where it is.
    private func reflectedTensors(_ value: Any, _ path: String = "") -> [(
        path: String, address: UnsafeMutableRawPointer
    )] {
        if let tensor = value as? Tensor { return [(path, tensor.storage.address)] }
        if value is any Device { return [] }
        return Mirror(reflecting: value).children.enumerated().flatMap { index, child in
            reflectedTensors(child.value, path + "." + (child.label ?? "\(index)"))
        }
    }

    @Test(arguments: [false, true])
    func visitHandsOutEveryTensorOnce(_ tied: Bool) throws {
        let model = try Llama(
            .init(width: 16, layers: 3, heads: 4, feedForward: 24, vocabulary: 10, tied: tied), on: device)
        let found = reflectedTensors(model)
        let visited = Set(model.parameters.map { $0.tensor.storage.address })
        #expect(found.count == 3 * 9 + (tied ? 2 : 3))
        for (path, address) in found { #expect(visited.contains(address), "visit forgets \(path)") }
        #expect(visited.count == model.parameters.count && visited.count == found.count)
        #expect(Set(model.parameters.map(\.name)).count == found.count)
    }

    @Test func initialWeightsDependOnTheSeedAloneAndAreSmallerIntoTheResidualStream() throws {
        let fields = LlamaConfiguration(width: 96, layers: 8, heads: 4, feedForward: 128, vocabulary: 64).fields
        let blueprint = try LlamaFamily().blueprint(preset: nil, fields: fields)
        let model = try blueprint.make(seed: 7, on: device)
        let again = try blueprint.make(seed: 7, on: CPUDevice(threads: 3))
        let other = try blueprint.make(seed: 8, on: device)
        #expect(model.parameterCount == blueprint.parameterCount)
        for (a, (b, c)) in zip(model.parameters, zip(again.parameters, other.parameters)) {
            let values = a.tensor.doubles
            #expect(values == b.tensor.doubles)
            if a.tensor.rank == 1 {
                #expect(values.allSatisfy { $0 == 1 }, "\(a.name)")
                continue
            }
            #expect(values != c.tensor.doubles)
            let deviation = (values.reduce(0) { $0 + $1 * $1 } / Double(values.count)).squareRoot()
            let isResidual = a.name.contains("o_proj") || a.name.contains("down_proj")
            let expected = isResidual ? 0.02 / 4 : 0.02  // sqrt(2 * 8 layers) = 4
            // At least 6,144 numbers: the deviation is known to 1 %.
            #expect(abs(deviation / expected - 1) < 0.05, "\(a.name): \(deviation)")
        }
        let empty = try blueprint.make(seed: nil, on: device)
        #expect(empty.parameters.allSatisfy { $0.tensor.rank == 1 || $0.tensor.doubles.allSatisfy { $0 == 0 } })
    }

    /// 1, 4, 1, 7, ... tokens at a time, and one by one.
    @Test(arguments: Attention.allCases, ["llama-mha", "llama-gqa-llama3-rope", "llama-mqa-tied"])
    func decodingWithACacheEqualsTheFullForward(_ attention: Attention, _ name: String) throws {
        let tokens = try Golden(name, on: device).tokens
        let count = tokens.shape[1]
        for (dtype, precision, bound) in [(DType.float32, Precision.float32, 1e-5), (.float64, .float64, 1e-10)] {
            let model = try loadGolden(name, dtype, on: device)
            var none: KeyValueCache?
            let whole = wholeContext(count, attention.backend, precision, on: device)
            let expected = try model.logits(tokens, whole, cache: &none)
            for pieces in [
                [Int](repeating: 1, count: count), [10, count - 10], [1, 4, 1, 7, count - 13], [20, 1, 1, 1, 1],
            ] {
                var cache: KeyValueCache? = KeyValueCache()
                var start = 0
                for piece in pieces {
                    let range = start..<start + piece
                    let context = wholeContext(piece, from: start, attention.backend, precision, on: device)
                    let logits = try model.logits(tokens.slice(axis: 1, range), context, cache: &cache)
                    let wanted = expected.slice(axis: 1, range).doubles
                    #expect(largestDifference(logits.doubles, wanted) <= bound, "\(dtype), \(pieces), from \(start)")
                    start += piece
                    #expect(cache?.positions == .contiguous(count: start))
                }
            }
            // A copy of a cache goes its own way, whether there is room or not.
            for room in [0, 20] {
                var cache: KeyValueCache? = KeyValueCache(room: room)
                let first = wholeContext(8, attention.backend, precision, on: device)
                _ = try model.logits(tokens.slice(axis: 1, 0..<8), first, cache: &cache)
                var fork = cache
                let next = wholeContext(1, from: 8, attention.backend, precision, on: device)
                let last = try model.logits(tokens.slice(axis: 1, 8..<9), next, cache: &cache)
                _ = try model.logits(tokens.slice(axis: 1, 3..<4), next, cache: &fork)
                let wanted = expected.slice(axis: 1, 8..<9).doubles
                #expect(largestDifference(last.doubles, wanted) <= bound, "\(dtype), after a fork")
                let again = wholeContext(1, from: 9, attention.backend, precision, on: device)
                let after = try model.logits(tokens.slice(axis: 1, 9..<10), again, cache: &cache)
                #expect(largestDifference(after.doubles, expected.slice(axis: 1, 9..<10).doubles) <= bound)
            }
        }
    }

    /// Rematerialised blocks give the same bits. Chunks sum in another order: in float64 that is seen at 1e-12, and in float32 gradients
    /// must be as near the float64 ones as without chunks.
    @Test func savingMemoryChangesNothingAndSavesMemory() throws {
        let configuration = LlamaConfiguration(
            width: 32, layers: 6, heads: 2, keyHeads: 1, feedForward: 512, vocabulary: 50)
        let length = 160
        let ids = (0..<2 * length).map { Int32($0 * 7 % 50) }
        let tokens = Tensor(ids, [2, length], on: device)
        let targets = Tensor(ids.map { ($0 + 7) % 50 }, [2, length], on: device)

        typealias Outcome = (loss: Double, gradient: [String: [Double]], peak: Int)
        func run(_ precision: NeuralCore.Precision, rematerialise: Bool, chunk: ChunkSize) throws -> Outcome {
            var model = try Llama(configuration, precision.master, on: device)
            model.initialise(seed: 3) { _, shape in shape.count >= 2 ? 0.1 : nil }
            var context = wholeContext(length, Attention.cpu.backend, precision, on: device)
            context.memory.rematerialiseBlocks = rematerialise
            context.memory.feedForwardChunk = chunk
            context.memory.lossChunk = .whole
            let before = device.ledger.live(.working)
            device.ledger.resetPeak()
            let (loss, gradient) = try valueAndGradient(at: model) { model in
                try model.loss(tokens, targets: targets, context)
            }
            return (loss.item, gradient.parameterValues, device.ledger.peak(.working) - before)
        }
        for (precision, bound) in [(NeuralCore.Precision.float32, 1e-6), (.float64, 1e-12)] {
            let plain = try run(precision, rematerialise: false, chunk: .whole)
            let rematerialised = try run(precision, rematerialise: true, chunk: .whole)
            let chunked = try run(precision, rematerialise: false, chunk: .tokens(23))
            let both = try run(precision, rematerialise: true, chunk: .tokens(23))

            #expect(rematerialised.loss == plain.loss)
            #expect(worstGradient(plain.gradient, rematerialised.gradient).difference <= bound)
            #expect(both.loss == chunked.loss && abs(chunked.loss / plain.loss - 1) <= bound)
            if precision == .float64 {
                let worst = [chunked, both].map { worstGradientNorm(plain.gradient, $0.gradient) }
                #expect(worst.allSatisfy { $0.difference <= bound }, "\(worst)")
            } else {
                let truth = try run(.float64, rematerialise: false, chunk: .whole).gradient
                let error = worstGradientNorm(truth, plain.gradient)
                let errors = [chunked, both].map { worstGradientNorm(truth, $0.gradient) }
                #expect(error.difference < 1e-5)
                #expect(errors.allSatisfy { $0.difference <= 1.5 * error.difference }, "\(errors), plain \(error)")
            }
            #expect(Double(rematerialised.peak) < 0.5 * Double(plain.peak), "\(rematerialised.peak) of \(plain.peak)")
            #expect(Double(chunked.peak) < 0.5 * Double(plain.peak), "\(chunked.peak) of \(plain.peak)")
            #expect(Double(both.peak) < 0.7 * Double(rematerialised.peak), "\(both.peak) of \(rematerialised.peak)")
        }
    }
}
