import CPUAttention
import DataCore
import DistributedCore
import Foundation
import NeuralCore
import RingAttention
import TensorCore
import TrainingCore
import ZooCore

/// One whole training step of a context on a ring of ranks.
struct OneStep: Sendable {
    /// Of the rank that needed most, bytes.
    struct Reading: Sendable, Codable {
        /// Activations and ring buffers.
        var peak: Int
        /// Weights, gradients and optimizer state.
        var state: Int

        private static let mark = "reading "

        /// For the process that started this one.
        var line: String { "\(Self.mark)\(peak) \(state)" }

        init(peak: Int, state: Int) { (self.peak, self.state) = (peak, state) }

        /// From what a job printed.
        init?(in output: String) {
            let line = output.split(separator: "\n").first { $0.hasPrefix(Self.mark) }
            let numbers = (line ?? "").split(separator: " ").compactMap { Int($0) }
            if numbers.count != 2 { return nil }
            self.init(peak: numbers[0], state: numbers[1])
        }
    }

    let blueprint: any ModelBlueprint
    let text: String
    let context: Int

    /// - Parameters:
    ///   - threads: of this process; nil for its share of the cores.
    ///   - budget: bytes of activations and ring buffers a rank; nil for no limit of the allocator's.
    /// - Returns: nil when the step exceeds the budget.
    func run(ranks: Int, over link: some LinkProvider, threads: Int? = nil, budget: Int?) throws -> Reading? {
        let options = DatasetOptions(context: context, validation: 0)
        let dataset = try Dataset.text(paths: [text], tokenizer: ByteTokenizer(), options: options)
        var plan = TrainingPlan(
            steps: 1, schedule: try Schedule(.constant, rate: 1e-3, finalRate: 0, warmup: 0, steps: 1))
        plan.memory.feedForwardChunk = .tokens(128)
        plan.memory.lossChunk = .tokens(128)
        let (fixed, blueprint) = (plan, blueprint)
        do {
            return try link.run(ranks: ranks, threads: threads, deadline: 120) { communicator, device -> Reading in
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
                let state = ledger.peak(.parameters) + ledger.peak(.gradients) + ledger.peak(.optimizer)
                let all = try communicator.allGather(Message([], integers: [ledger.peak(), state])).map(\.integers)
                return Reading(peak: all.map { $0[0] }.max()!, state: all.map { $0[1] }.max()!)
            }[0]
        } catch let error as RingZooError where error.message.contains("memory budget") {
            return nil
        }
    }
}
