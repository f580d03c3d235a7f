/// Gives out the batches of a training run, one after the other, from a position that can be saved.
///
/// Which rows a batch has is a function of (seed, position) alone: a loader made with the same arguments and set to a
/// saved position goes on exactly where the other stopped. Copies go on independently.
public struct DataLoader: Sendable {
    /// How rows are chosen.
    public enum Order: String, Sendable, Hashable, Codable {
        /// Every row once in each epoch, in an order drawn anew for each epoch.
        case shuffled
        /// Each row drawn on its own from all there are; for windows at random offsets of a text.
        case independent
    }

    /// The next row to give out; all the state there is.
    public struct Position: Sendable, Hashable, Codable {
        /// Passes over the data that are complete.
        public var epoch: Int
        /// Rows of this epoch that were given out.
        public var index: Int

        public init(epoch: Int = 0, index: Int = 0) {
            self.epoch = epoch
            self.index = index
        }
    }

    public let source: any RowSource
    public let rowsPerBatch: Int
    public let order: Order
    /// Rows after which `position.epoch` counts up.
    public let rowsPerEpoch: Int
    /// May be set to a saved value; an index past the end of the epoch carries over.
    public var position = Position()
    private let seed: UInt64

    /// `rowsPerEpoch` is only asked for with `.independent`, where it is a way of counting; nil means every row.
    public init(
        _ source: any RowSource, rowsPerBatch: Int, seed: UInt64, order: Order = .shuffled, rowsPerEpoch: Int? = nil
    ) {
        guard rowsPerBatch > 0, source.rowCount > 0 else {
            fatalError("DataLoader: \(rowsPerBatch) rows a batch of \(source.rowCount) rows")
        }
        self.source = source
        self.rowsPerBatch = rowsPerBatch
        self.order = order
        self.rowsPerEpoch = order == .independent ? max(1, rowsPerEpoch ?? source.rowCount) : source.rowCount
        self.seed = seed
    }

    /// The next batch; it always has `rowsPerBatch` rows, so one may end an epoch and begin the next.
    public mutating func next() -> Batch {
        var batch = Batch(context: source.context)
        carry()
        var permutation = Permutation(count: source.rowCount, seed: seed, epoch: position.epoch)
        let draws = CounterRandom(seed: seed, purpose: independentPurpose)
        for _ in 0..<rowsPerBatch {
            switch order {
            case .shuffled: source.append(row: permutation[position.index], to: &batch)
            case .independent:
                let counter = UInt64(position.epoch) &* UInt64(rowsPerEpoch) &+ UInt64(position.index)
                source.append(row: draws.index(below: source.rowCount, counter), to: &batch)
            }
            position.index += 1
            if carry() { permutation = Permutation(count: source.rowCount, seed: seed, epoch: position.epoch) }
        }
        return batch
    }

    @discardableResult
    private mutating func carry() -> Bool {
        guard position.index >= 0, position.epoch >= 0 else { fatalError("DataLoader: position \(position)") }
        guard position.index >= rowsPerEpoch else { return false }
        position.epoch += position.index / rowsPerEpoch
        position.index %= rowsPerEpoch
        return true
    }
}

/// Keeps the draws of `.independent` apart from the keys of the permutations.
private let independentPurpose: UInt64 = 0x77_69_6e_64_6f_77
