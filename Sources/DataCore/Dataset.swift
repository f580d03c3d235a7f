import TensorCore

/// How a data set is cut into rows; the keys of the config's `data` section that every kind shares.
public struct DatasetOptions: Sendable, Hashable {
    /// Tokens in a row, T.
    public var context: Int
    /// The share of the data, from its end, that is kept for evaluation: 0 ..< 1.
    public var validation: Double
    /// Whether several records share a row; only for data made of records.
    public var packing: Bool
    /// Whether positions restart at each document.
    public var resetPositions: Bool
    /// What orders and row fillings are drawn from.
    public var seed: UInt64

    public init(
        context: Int, validation: Double = 0.1, packing: Bool = false, resetPositions: Bool = true, seed: UInt64 = 1
    ) {
        self.context = context
        self.validation = validation
        self.packing = packing
        self.resetPositions = resetPositions
        self.seed = seed
    }

    func check() throws {
        guard context > 0 else { throw RingZooError(.config, "the context is \(context); at least 1 would work") }
        guard (0..<1).contains(validation) else {
            throw RingZooError(.config, "the validation share is \(validation); at least 0 and below 1 would work")
        }
    }
}

/// Tokenized data, cut into a training and an evaluation part.
public struct Dataset: Sendable {
    public let options: DatasetOptions
    /// Tokens in the training part.
    public let trainingTokenCount: Int
    /// Tokens in the evaluation part; 0 where there is none.
    public let evaluationTokenCount: Int
    let training: any RowSource
    private let evaluation: (any RowSource)?
    private let order: DataLoader.Order
    private let rowsPerEpoch: Int?

    public init(
        options: DatasetOptions, training: any RowSource, trainingTokenCount: Int, evaluation: (any RowSource)?,
        evaluationTokenCount: Int, order: DataLoader.Order, rowsPerEpoch: Int? = nil
    ) {
        self.options = options
        self.training = training
        self.trainingTokenCount = trainingTokenCount
        self.evaluation = evaluation
        self.evaluationTokenCount = evaluationTokenCount
        self.order = order
        self.rowsPerEpoch = rowsPerEpoch
    }

    /// A loader of training batches at the start of the first epoch.
    public func makeLoader(rowsPerBatch: Int) -> DataLoader {
        DataLoader(
            training, rowsPerBatch: rowsPerBatch, seed: options.seed, order: order, rowsPerEpoch: rowsPerEpoch)
    }

    /// The evaluation part in order, every target once; the last batch may have fewer rows.
    ///
    /// At most `limit` batches, the first ones. Empty where the data set has no evaluation part.
    public func evaluationBatches(rowsPerBatch: Int, limit: Int? = nil) -> some Sequence<Batch> {
        let rowCount = evaluation?.rowCount ?? 0
        let starts = stride(from: 0, to: rowCount, by: rowsPerBatch).prefix(limit ?? rowCount)
        return starts.lazy.map { start in
            var batch = Batch(context: options.context)
            for row in start..<Swift.min(start + rowsPerBatch, rowCount) { evaluation!.append(row: row, to: &batch) }
            return batch
        }
    }
}
