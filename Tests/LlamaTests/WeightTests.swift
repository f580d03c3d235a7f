import CheckpointCore
import NeuralCore
import TensorCore
import Testing
import ZooCore

@testable import Llama

/// Weights from stored tensors into a model and out of it.
@Suite struct WeightTests {
    let device = CPUDevice(threads: 1)
    let configuration = LlamaConfiguration(
        width: 16, layers: 2, heads: 4, keyHeads: 2, feedForward: 24, vocabulary: 10)

    private func random(seed: UInt64, _ configuration: LlamaConfiguration? = nil) throws -> Llama {
        var model = try Llama(configuration ?? self.configuration, on: device)
        model.initialise(seed: seed) { _, _ in 1 }
        return model
    }

    @Test func savedWeightsLoadBackToTheBit() throws {
        let model = try random(seed: 1)
        var other = try random(seed: 2)
        let written = try WrittenTensors(model.weightSources(prefix: "model."))
        #expect(written.tensors.allSatisfy { $0.name.hasPrefix("model.") })
        #expect(other.parameterValues != model.parameterValues)
        try other.loadWeights(from: written, prefix: "model.")
        #expect(other.parameterValues == model.parameterValues)
    }

    @Test func loadingWritesInPlaceAndLeavesCopiesAlone() throws {
        let sources = try random(seed: 1).weightSources()
        var model = try random(seed: 2)
        let (before, working) = (device.ledger.live(.parameters), device.ledger.live(.working))
        device.ledger.resetPeak()
        let places = model.parameters.map { $0.tensor.storage.address }
        try model.loadWeights(from: sources)
        #expect(model.parameters.map { $0.tensor.storage.address } == places)
        // The source model is alive as well until here.
        withExtendedLifetime(sources) {
            #expect(device.ledger.peak(.parameters) == before && device.ledger.live(.parameters) == before)
            #expect(device.ledger.peak(.working) == working)
        }

        let snapshot = model
        let values = snapshot.parameterValues
        try model.loadWeights(from: random(seed: 3).weightSources())
        #expect(snapshot.parameterValues == values && model.parameterValues != values)
    }

    /// Stored types are widened exactly, whatever the pieces in which bytes arrive.
    @Test(arguments: [1, 3, 7, 64, 1 << 20])
    func storedTypesAreConverted(_ pieceSize: Int) throws {
        let model = try random(seed: 4)
        for dtype in [DType.bfloat16, .float16, .float32, .float64] {
            var expected: [String: [Double]] = [:]
            var sources: [TensorSource] = []
            for (name, tensor) in model.parameters {
                let stored = tensor.cast(to: dtype)
                expected[name] = stored.cast(to: .float32).doubles
                let bytes = stored.withBytes { Array($0) }
                let info = TensorInfo(name: "w." + name, shape: tensor.shape, dtype: dtype)
                sources.append(
                    TensorSource(info) { sink in
                        for start in stride(from: 0, to: bytes.count, by: pieceSize) {
                            try bytes[start..<min(bytes.count, start + pieceSize)].withUnsafeBytes { try sink($0) }
                        }
                    })
            }
            var loaded = try random(seed: 5)
            try loaded.loadWeights(from: sources, prefix: "w.")
            #expect(loaded.parameterValues == expected, "\(dtype)")
            #expect(loaded.parameters.allSatisfy { $0.tensor.dtype == .float32 })
        }
    }

    @Test func anotherModelsWeightsAreRefusedWithBothShapesAndNothingIsWritten() throws {
        var wider = configuration
        (wider.feedForward, wider.layers) = (32, 3)
        let sources = try random(seed: 1, wider).weightSources()
        var model = try random(seed: 2)
        let values = model.parameterValues
        let error = #expect(throws: RingZooError.self) { try model.loadWeights(from: sources) }
        let text = error.map { "\($0)" } ?? ""
        #expect(error?.code == .config)
        #expect(text.contains("model.layers.0.feed_forward.gate_proj.weight is [32, 16], but the model's is [24, 16]"))
        #expect(text.contains("15 tensors differ") && text.contains("and 7 more"))
        #expect(model.parameterValues == values)

        let missing = #expect(throws: RingZooError.self) {
            try model.loadWeights(from: random(seed: 1).weightSources().filter { $0.info.name != "model.norm.weight" })
        }
        #expect(missing.map { "\($0)" }?.contains("model.norm.weight [16] is missing") == true)

        var tied = configuration
        tied.tied = true
        var headless = try random(seed: 1, tied)
        let unexpected = #expect(throws: RingZooError.self) {
            try headless.loadWeights(from: random(seed: 1).weightSources())
        }
        #expect(unexpected.map { "\($0)" }?.contains("model.head.weight [10, 16] is not expected") == true)
    }

    @Test func tensorsWithoutThePrefixAreNotLookedAt() throws {
        var model = try random(seed: 1)
        let optimizer = TensorSource(TensorInfo(name: "optimizer.step", shape: [], dtype: .int64)) { _ in
            throw RingZooError(.failed, "was read")
        }
        try model.loadWeights(from: random(seed: 2).weightSources() + [optimizer])
    }

    @Test func aSourceOfAnotherLengthIsRefused() throws {
        for count in [0, 60, 63, 65, 68, 200] {
            var model = try random(seed: 1)
            let sources = try random(seed: 2).weightSources().map { source in
                source.info.name != "model.norm.weight"
                    ? source
                    : TensorSource(source.info) { sink in
                        try [UInt8](repeating: 0, count: count).withUnsafeBytes { try sink($0) }
                    }
            }
            let error = #expect(throws: RingZooError.self) { try model.loadWeights(from: sources) }
            #expect(error?.code == .corruptInput, "\(count) bytes")
        }
    }
}
