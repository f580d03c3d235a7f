import AttentionCore
import DataCore
import DistributedCore
import NeuralCore
import RingAttention
import TensorCore
import Testing

@testable import Llama
@testable import TrainingCore

/// Correctness bar 9: on any number of ranks, with labels, rotary positions and documents right at every border.
@Suite struct RingTests {
    struct Outcome: Sendable {
        var loss = 0.0
        var gradient: [String: [Double]] = [:]

        mutating func add(_ loss: Double, _ shares: [String: [Double]]) {
            self.loss += loss
            gradient.merge(shares) { zip($0, $1).map { $0 + $1 } }
        }
    }

    static let model = "llama-gqa-llama3-rope"
    /// No multiple of any ring size here, nor of twice that.
    static let length = 29
    /// Lengths of the documents of each row; the second row ends in padding.
    static let packed = [[11, 1, 10, 7], [5, 20]]
    static let whole = [[29], [29]]

    static func documents(_ lengths: [[Int]]) -> [[[Int32]]] {
        var next: Int32 = 1
        return lengths.map { row in
            row.map { count in
                (0..<count).map { _ in
                    next = next &* 75 % 65_537  // full period, so that tokens do not repeat in step with anything
                    return next % 96
                }
            }
        }
    }

    static func batch(_ lengths: [[Int]], resetPositions: Bool) -> Batch {
        var batch = Batch(context: length)
        for row in documents(lengths) {
            var writer = RowWriter(&batch, resetPositions: resetPositions)
            for document in row {
                writer.appendDocument(tokens: document[...], targets: document.dropFirst() + [Batch.ignoredTarget])
            }
            batch = writer.finish()
        }
        return batch
    }

    /// The definition: each document alone on one device, from position 0.
    static func truth(_ lengths: [[Int]], _ dtype: DType, _ precision: Precision) throws -> Outcome {
        let device = CPUDevice(threads: 1)
        let model = try loadGolden(Self.model, dtype, on: device)
        var outcome = Outcome()
        for document in documents(lengths).joined() {
            let tokens = Tensor(document, [1, document.count], on: device)
            let targets = Tensor(Array(document.dropFirst()) + [-1], [1, document.count], on: device)
            let context = wholeContext(document.count, PlainAttention(), precision, on: device)
            let (loss, gradient) = try valueAndGradient(at: model) { model in
                try model.loss(tokens, targets: targets, context)
            }
            outcome.add(loss.item, gradient.parameterValues)
        }
        return outcome
    }

    static func onRanks(
        _ ranks: Int, _ layout: SequenceLayout, _ attention: Attention, _ batch: Batch, _ dtype: DType,
        _ precision: Precision
    ) throws -> Outcome {
        let shares = try InProcessRanks.run(ranks, deadline: 120) { communicator, device in
            let model = try loadGolden(Self.model, dtype, on: device)
            let shard = BatchShard(
                batch, layout: layout, shares: nil, mesh: ProcessMesh(sequence: communicator), on: device)
            func open(_ local: some AttentionBackend) -> any AttentionBackend {
                RingAttention(local, over: communicator)
            }
            let context = shard.context(open(attention.backend), ParameterSharding(), precision, .init())
            let (loss, gradient) = try valueAndGradient(at: model) { model in
                try model.loss(shard.tokens, targets: shard.targets, context)
            }
            return (loss.item, gradient.parameterValues)
        }
        var outcome = Outcome()
        for (loss, gradient) in shares { outcome.add(loss, gradient) }
        return outcome
    }

    @Test(arguments: Attention.allCases, [DType.float64, .float32])
    func modelOnARingEqualsDocumentsAlone(_ attention: Attention, _ dtype: DType) throws {
        let (precision, bound): (Precision, Double) = dtype == .float64 ? (.float64, 1e-10) : (.float32, 1e-5)
        for lengths in [Self.whole, Self.packed] {
            let truth = try Self.truth(lengths, dtype, precision)
            #expect(truth.loss > 10)
            for resetPositions in [true, false] {
                let batch = Self.batch(lengths, resetPositions: resetPositions)
                for ranks in 1...4 {
                    for layout in SequenceLayout.allCases {
                        let found = try Self.onRanks(ranks, layout, attention, batch, dtype, precision)
                        let case_ = "\(ranks) ranks, \(layout), documents \(lengths), reset \(resetPositions)"
                        #expect(abs(found.loss / truth.loss - 1) <= bound, "loss, \(case_)")
                        let worst = worstGradient(truth.gradient, found.gradient)
                        #expect(worst.difference <= bound, "\(worst), \(case_)")
                    }
                }
            }
        }
    }
}
