import AttentionCore
import DataCore
import DistributedCore
import Foundation
import NeuralCore
import TensorCore
import TrainingCore
import ZooStandard

@testable import ZooCore

/// The text that any machine has.
let corpus = URL(fileURLWithPath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
    .appendingPathComponent("Corpus/harbour.txt").path

/// One training job as a test sees it: the parts of a run from a config, and a trainer on each rank. Nothing is written.
struct Job: Sendable {
    let run: TrainingRun

    /// The debug model on the corpus with context 32 and batch 2; each setting is a line like `optimizer.rate=1e-3`.
    init(_ settings: String...) throws { try self.init(settings) }

    init(_ settings: [String]) throws {
        // A single-pass optimizer, and a rate that shows every difference without being unstable.
        let standard = [
            "model.name=llama", "model.preset=debug", "data.path=\(corpus)", "data.context=32", "data.batch=2",
            "optimizer.rate=1e-3", "run.directory=unused", "run.steps=50", "attention.backend=cpu",
        ]
        let tree = try (standard + settings).reduce(ConfigTree(yaml: "model: {}", source: "test")) {
            try ConfigTree(override: $1).over($0)
        }
        run = try TrainingRun(RunConfig(tree: tree), in: ZooStandard.zoo())
    }

    /// What attention is computed with on a rank; tests put faults in between.
    typealias Wrap = @Sendable (any AttentionBackend, any Communicator) -> any AttentionBackend

    /// Makes a trainer on each rank and gives it to `body`; the results come in the order of ranks.
    @discardableResult
    func onRanks<Result: Sendable>(
        wrap: @escaping Wrap = { backend, _ in backend }, deadline: Double = 60,
        _ body: @escaping @Sendable (inout any ModelTrainer, CPUDevice) throws -> Result
    ) throws -> [Result] {
        let ranks = run.mesh.ranks
        return try InProcessRanks.run(ranks, threads: ranks, deadline: deadline) { communicator, device in
            device.ledger.budget = run.config.memory.budget
            let mesh = try ProcessMesh(
                run.mesh, shardParameters: run.config.parallel.shardParameters, over: communicator)
            let attention = wrap(try run.attention.make(over: mesh.sequence), mesh.sequence)
            // The only holder of the trainer is the one that trains: a copy would make a step copy the weights.
            var trainer = try trainer(attention, mesh, on: device)
            return try body(&trainer, device)
        }
    }

    func trainer(
        _ attention: any AttentionBackend, _ mesh: ProcessMesh, on device: CPUDevice
    ) throws -> any ModelTrainer {
        let sharded = try ShardedBlueprint(run.blueprint, mesh.sharding)
        func open<Model: LanguageModel>(_ model: consuming Model) -> any ModelTrainer {
            var settings = AdamW.Settings()
            settings.weightDecay = run.config.optimizer.weightDecay
            let optimizer = AdamW(for: copy model, settings)
            return Trainer(
                model, optimizer: optimizer, loader: run.dataset.makeLoader(rowsPerBatch: run.config.data.batch),
                plan: run.plan, attention: attention, mesh: mesh)
        }
        return open(try sharded.make(seed: run.config.run.seed, on: device))
    }

    /// The losses of so many steps, as rank 0 has them.
    func losses(_ steps: Int) throws -> [Double] {
        try onRanks { trainer, _ in try trainer.losses(steps) }[0]
    }
}

/// What tests want of a trainer.
extension ModelTrainer {
    mutating func run(_ steps: Int) throws -> [StepReport] { try (0..<steps).map { _ in try takeStep() } }

    mutating func losses(_ steps: Int) throws -> [Double] { try run(steps).map(\.loss) }

    /// All weights and optimizer state, as bytes by name.
    var contents: [String: [UInt8]] {
        let named =
            model.parameters.map { ("model." + $0.name, $0.tensor) } + optimizer.state.map { ($0.name, $0.tensor) }
        return Dictionary(uniqueKeysWithValues: named.map { ($0, $1.withBytes { Array($0) }) })
    }

    /// Step, position and so on, as JSON.
    func stateText() throws -> String { String(decoding: try JSONEncoder().encode(state), as: UTF8.self) }

    mutating func goOn(from text: String, contents: [String: [UInt8]], on device: CPUDevice) throws {
        loadWeights { model in
            model.forEachParameter { name, parameter in
                parameter.makeUnique()
                contents["model." + name]!.withUnsafeBytes { device.write($0, into: parameter) }
            }
        }
        var saved: [String: Tensor] = [:]
        for (name, tensor) in optimizer.state {
            saved[name] = contents[name]!.withUnsafeBytes { Tensor(bytes: $0, tensor.shape, tensor.dtype, on: device) }
        }
        try restore(
            JSONDecoder().decode(TrainingState.self, from: Data(text.utf8)),
            saved: saved.mapValues { SavedForm($0.shape, $0.dtype) }, read: { saved[$0]! })
    }

    /// log softmax(logits)[target] of a row on one device, by the definition and in float64.
    func logLikelihoods(_ batch: Batch, row: Int, _ attention: any AttentionBackend) throws -> [Double] {
        let (T, V, device) = (batch.context, model.vocabularySize, mesh.world.device)
        let columns = row * T..<(row + 1) * T
        let context = SequenceContext(
            positions: .contiguous(count: T),
            rotaryPositions: Tensor(Array(batch.positions[columns]), [1, T], on: device), attention: attention,
            on: device)
        var none: KeyValueCache?
        let logits = try model.logits(Tensor(Array(batch.tokens[columns]), [1, T], on: device), context, cache: &none)
        let values = logits.cast(to: .float64).withBytes { Array($0.bindMemory(to: Double.self)) }
        return columns.enumerated().compactMap { position, column in
            let target = Int(batch.targets[column])
            if target < 0 { return nil }
            let row = values[position * V..<(position + 1) * V]
            let largest = row.max()!
            return row[row.startIndex + target] - largest - log(row.reduce(0) { $0 + exp($1 - largest) })
        }
    }
}

/// The names under which two sets of bytes differ; sets that differ are too large to be shown.
func differences(_ a: [String: [UInt8]], _ b: [String: [UInt8]]) -> [String] {
    Set(a.keys).union(b.keys).filter { a[$0] != b[$0] }.sorted()
}

/// The largest |a - b| / |b|.
func relativeDifference(_ a: [Double], _ b: [Double]) -> Double {
    if a.count != b.count { return .infinity }
    return zip(a, b).map { abs($0 - $1) / abs($1) }.reduce(0, max)
}

/// The error that `body` throws; nil when it throws none, or one of another type.
func fault(_ body: () throws -> Void) -> RingZooError? {
    do {
        try body()
        return nil
    } catch { return error as? RingZooError }
}
