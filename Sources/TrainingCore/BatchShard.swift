import AttentionCore
import DataCore
import DistributedCore
import NeuralCore
import TensorCore

/// The part of a batch that one rank holds, as tensors.
///
/// Targets were shifted before the sequence was cut, so a label never crosses a shard border.
struct BatchShard {
    let tokens, targets: Tensor
    let positions: Positions
    private let rotaryPositions: Tensor
    private let documents: Tensor?
    private let shards: [SequenceShard]

    init(
        _ batch: Batch, layout: SequenceLayout, shares: [Int]?, communicator: any Communicator, on device: any Device
    ) {
        let all = layout.shards(length: batch.context, size: communicator.size, shares: shares)
        let own = all[communicator.rank]
        let columns = own.indices
        positions = own
        func part(_ values: [Int32], rows: Int) -> Tensor {
            var shard: [Int32] = []
            shard.reserveCapacity(rows * columns.count)
            for row in 0..<rows { for column in columns { shard.append(values[row * batch.context + column]) } }
            return Tensor(shard, [rows, columns.count], on: device)
        }
        /// One row stands for all where they are equal: nothing is computed per row then.
        func sharedPart(_ values: [Int32]) -> Tensor {
            let first = values.prefix(batch.context)
            let equal = (1..<max(1, batch.rows)).allSatisfy {
                values[$0 * batch.context..<($0 + 1) * batch.context].elementsEqual(first)
            }
            return part(values, rows: equal ? min(1, batch.rows) : batch.rows)
        }
        tokens = part(batch.tokens, rows: batch.rows)
        targets = part(batch.targets, rows: batch.rows)
        rotaryPositions = sharedPart(batch.positions)
        // Judged on the whole batch, so that every rank decides alike.
        let isPacked = !batch.documents.allSatisfy { $0 == 0 }
        documents = isPacked ? sharedPart(batch.documents) : nil
        shards = SequenceShard.all(all, documents: isPacked ? batch.documents : nil, length: batch.context)
    }

    func context(
        _ attention: any AttentionBackend, _ precision: Precision, _ memory: SequenceContext.MemoryPlan
    ) -> SequenceContext {
        var context = SequenceContext(
            positions: positions, rotaryPositions: rotaryPositions, documents: documents, attention: attention,
            precision: precision, memory: memory, on: tokens.device)
        context.shards = shards
        return context
    }
}
