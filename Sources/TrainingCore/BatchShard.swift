import AttentionCore
import DataCore
import DistributedCore
import NeuralCore
import TensorCore

/// The part of a batch that one rank holds, as tensors: some rows where batches are cut, some columns where sequences are.
///
/// Targets were shifted before the sequence was cut, so a label never crosses a shard border.
struct BatchShard {
    let tokens, targets: Tensor
    let positions: Positions
    private let rotaryPositions: Tensor
    private let documents: Tensor?
    private let shards: [SequenceShard]

    init(_ batch: Batch, layout: SequenceLayout, shares: [Int]?, mesh: ProcessMesh, on device: any Device) {
        let all = layout.shards(length: batch.context, size: mesh.sequence.size, shares: shares)
        let own = all[mesh.sequence.rank]
        let rows = Range.piece(mesh.dataIndex, of: mesh.shape.data, count: batch.rows)
        let columns = own.indices
        positions = own
        func part(_ values: [Int32], rows: Range<Int>) -> Tensor {
            var shard: [Int32] = []
            shard.reserveCapacity(rows.count * columns.count)
            for row in rows { for column in columns { shard.append(values[row * batch.context + column]) } }
            return Tensor(shard, [rows.count, columns.count], on: device)
        }
        /// One row stands for all where they are equal: nothing is computed per row then.
        func sharedPart(_ values: [Int32]) -> Tensor {
            let first = values.prefix(batch.context)
            let equal = (1..<max(1, batch.rows)).allSatisfy {
                values[$0 * batch.context..<($0 + 1) * batch.context].elementsEqual(first)
            }
            return part(values, rows: equal ? 0..<min(1, batch.rows) : rows)
        }
        tokens = part(batch.tokens, rows: rows)
        targets = part(batch.targets, rows: rows)
        rotaryPositions = sharedPart(batch.positions)
        // Judged on the whole batch, so that every rank decides alike.
        let isPacked = !batch.documents.allSatisfy { $0 == 0 }
        documents = isPacked ? sharedPart(batch.documents) : nil
        shards = SequenceShard.all(all, documents: isPacked ? batch.documents : nil, length: batch.context)
    }

    func context(
        _ attention: any AttentionBackend, _ sharding: ParameterSharding, _ precision: Precision,
        _ memory: SequenceContext.MemoryPlan
    ) -> SequenceContext {
        var context = SequenceContext(
            positions: positions, rotaryPositions: rotaryPositions, documents: documents, attention: attention,
            sharding: sharding, precision: precision, memory: memory, on: tokens.device)
        context.shards = shards
        return context
    }
}
