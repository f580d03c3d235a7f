import ArgumentParser
import CPUAttention
import DataCore
import DistributedCore
import Foundation
import NeuralCore
import RingAttention
import TensorCore
import TrainingCore
import ZooCore
import ZooStandard

/// The context law: with a fixed budget of bytes per rank for activations and ring buffers, the longest context that trains grows
/// with the number of ranks. The device's allocator enforces the budget; weights, gradients and optimizer state are counted apart.
@main
struct ContextLaw: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "context-law",
        abstract: "Find the longest context that trains on N ranks under a fixed budget of bytes per rank.",
        discussion: "Example: context-law --budget 8 --ranks 1,2,4,8")

    @Option(help: "MiB of activations and ring buffers per rank.") var budget = 8.0
    @Option(help: "Numbers of ranks, separated by commas.") var ranks = "1,2,4,8"
    @Option(help: "Preset of the llama model.") var preset = "debug"
    @Option(help: "Contexts tried are multiples of this.") var step = 32
    @Option(help: "A text; every byte is a token.") var text = "Tests/Corpus/harbour.txt"

    func run() throws {
        let zoo = try ZooStandard.zoo()
        let blueprint = try zoo.models.entry("llama").blueprint(preset: preset, fields: .mapping([]))
        let bytes = Int(budget * 1_048_576)
        print("budget \(bytes) bytes per rank, model llama/\(preset), batch 1, float32, zigzag")
        print("ranks  longest context  T(N)/T(2)  N/2    deviation  peak bytes/rank  state bytes/rank")
        var found: [(ranks: Int, context: Int, peak: Int, state: Int)] = []
        for count in ranks.split(separator: ",").compactMap({ Int($0) }) {
            var (fits, fails) = (0, step)
            var best = (peak: 0, state: 0)
            func attempt(_ context: Int) throws -> Bool {
                guard let result = try Self.trainsOnce(blueprint, text, context, ranks: count, budget: bytes) else {
                    return false
                }
                (fits, best) = (context, result)
                return true
            }
            while try attempt(fails) { fails *= 2 }
            while fails - fits > step {
                let middle = (fits + fails) / 2 / step * step
                if try !attempt(middle) { fails = middle }
            }
            found.append((count, fits, best.peak, best.state))
        }
        let two = found.first { $0.ranks == 2 }?.context
        for row in found {
            var law = "          -      -          -"
            if let two, two > 0 {
                let (ratio, expected) = (Double(row.context) / Double(two), Double(row.ranks) / 2)
                law = String(format: "%11.3f  %5.1f  %+8.2f %%", ratio, expected, 100 * (ratio / expected - 1))
            }
            print(String(format: "%5d  %15d%@  %15d  %16d", row.ranks, row.context, law, row.peak, row.state))
        }
    }

    /// One whole training step; nil when it exceeds the budget.
    static func trainsOnce(
        _ blueprint: any ModelBlueprint, _ text: String, _ context: Int, ranks: Int, budget: Int
    ) throws -> (peak: Int, state: Int)? {
        let options = DatasetOptions(context: context, validation: 0)
        let dataset = try Dataset.text(paths: [text], tokenizer: ByteTokenizer(), options: options)
        var plan = TrainingPlan(
            steps: 1, schedule: try Schedule(.constant, rate: 1e-3, finalRate: 0, warmup: 0, steps: 1))
        plan.memory.feedForwardChunk = .tokens(128)
        plan.memory.lossChunk = .tokens(128)
        let fixed = plan
        do {
            let peaks = try InProcessRanks.run(ranks) { communicator, device -> (peak: Int, state: Int) in
                func train<Model: LanguageModel>(_ model: Model) throws {
                    var trainer = Trainer(
                        model, optimizer: AdamW(for: model), loader: dataset.makeLoader(rowsPerBatch: 1), plan: fixed,
                        attention: RingAttention(CPUAttention(), over: communicator),
                        mesh: ProcessMesh(sequence: communicator))
                    _ = try trainer.takeStep()
                }
                device.ledger.budget = budget
                try train(blueprint.make(seed: 1, on: device))
                let ledger = device.ledger
                return (ledger.peak(), ledger.peak(.parameters) + ledger.peak(.gradients) + ledger.peak(.optimizer))
            }
            return (peaks.map(\.peak).max()!, peaks.map(\.state).max()!)
        } catch let error as RingZooError where error.message.contains("memory budget") {
            return nil
        }
    }
}
