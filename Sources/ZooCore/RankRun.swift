import CheckpointCore
import DistributedCore
import Foundation
import NeuralCore
import Synchronization
import TensorCore
import TrainingCore

/// The loop of one rank: steps, evaluations, checkpoints. Rank 0 also writes and reports.
struct RankRun {
    let run: TrainingRun
    /// Nil in a process without rank 0.
    let folder: CheckpointDirectory?
    let stop: StopRequest
    let observe: @Sendable (TrainingEvent) throws -> Void
    let mesh: ProcessMesh
    let sharded: ShardedBlueprint
    let profiler: StepProfiler?

    private var communicator: any Communicator { mesh.world }
    private var isFirst: Bool { communicator.rank == 0 }

    /// - Parameter world: all ranks of the run, each of which makes this call.
    init(
        _ run: TrainingRun, folder: CheckpointDirectory?, stop: StopRequest, world: any Communicator,
        profiler: StepProfiler?, observe: @escaping @Sendable (TrainingEvent) throws -> Void
    ) throws {
        (self.run, self.folder, self.stop, self.observe, self.profiler) = (run, folder, stop, observe, profiler)
        // Only a run with a profile goes through the stand-ins that record.
        let link = profiler == nil ? world : RecordedCommunicator(world)
        mesh = try ProcessMesh(run.mesh, shardParameters: run.config.parallel.shardParameters, over: link)
        sharded = try ShardedBlueprint(run.blueprint, mesh.sharding)
    }

    func train(
        resumingFrom reader: CheckpointReader?, damaged: [CheckpointDirectory.Damaged]
    ) throws -> TrainingSummary {
        let reader = try whereOthersGoOn(from: reader)
        // The model has no name here, so that nobody but the trainer holds it: the first step would copy all weights that somebody
        // else still holds, and keep both.
        var trainer = try makeTrainer(run.makeModel(sharded, reader, on: communicator.device))
        return try train(&trainer, resumingFrom: reader, damaged: damaged)
    }

    /// The checkpoint that rank 0 goes on from, opened here too where rank 0 is another process.
    private func whereOthersGoOn(from reader: CheckpointReader?) throws -> CheckpointReader? {
        let path = try communicator.broadcast(lines: [reader?.path ?? ""], from: 0)[0]
        return try reader ?? (path.isEmpty ? nil : CheckpointReader(path))
    }

    private func makeTrainer(_ model: some LanguageModel) throws -> any ModelTrainer {
        let ranks = mesh.sequence
        let attention = try profiler == nil ? run.attention.make(over: ranks) : run.attention.makeRecorded(over: ranks)
        return Trainer(
            model, optimizer: try run.optimizer(for: model),
            loader: run.dataset.makeLoader(rowsPerBatch: run.config.data.batch), plan: run.plan,
            attention: attention, mesh: mesh)
    }

    private func train(
        _ trainer: inout any ModelTrainer, resumingFrom reader: CheckpointReader?,
        damaged: [CheckpointDirectory.Damaged]
    ) throws -> TrainingSummary {
        let begin = Date()
        let device = communicator.device
        if let reader { try restore(&trainer, from: reader) }
        var summary = TrainingSummary(
            step: trainer.step, complete: false, interrupted: false, lastLoss: nil, validationLoss: nil,
            checkpoint: reader?.path ?? "", seconds: 0)
        let metrics = isFirst ? try openRun(trainer.step, reader, damaged) : nil

        while trainer.step < run.plan.lastStep && !summary.interrupted {
            let started = Date()
            let report = try takeStep(&trainer)
            // Ranks agree on stopping, and rank 0 learns what each holds.
            let states = try communicator.allGather(
                Message([], integers: [stop.isMade ? 1 : 0, device.ledger.peak(), stateBytes(device)]))
            // A request in the last step comes too late to leave anything undone.
            summary.interrupted = trainer.step < run.plan.lastStep && states.contains { $0.integers[0] == 1 }
            summary.step = trainer.step
            summary.lastLoss = report.loss
            let seconds = Date().timeIntervalSince(started)
            let measure = StepMeasure(
                report: report, seconds: seconds, tokensPerSecond: Double(report.tokens) / seconds,
                peakBytes: states.map { $0.integers[1] }, stateBytes: states.map { $0.integers[2] },
                lastStep: run.plan.lastStep)
            try metrics?.append(measure.json)
            if isFirst { try observe(.stepped(measure)) }

            let isLast = trainer.step == run.plan.lastStep || summary.interrupted
            if isDue(run.plan.evaluateEvery, trainer.step)
                || (isLast && !summary.interrupted && run.plan.evaluateEvery != nil)
            {
                summary.validationLoss = try evaluate(trainer, metrics)
            }
            if isDue(run.plan.checkpointEvery, trainer.step) || isLast {
                summary.checkpoint = run.checkpointPath(ofStep: trainer.step)
                try save(trainer)
            }
        }
        if let profiler { try report(profiler) }
        summary.complete = trainer.step >= run.plan.steps
        summary.seconds = Date().timeIntervalSince(begin)
        if isFirst { try observe(.finished(summary)) }
        return summary
    }

    private func takeStep(_ trainer: inout any ModelTrainer) throws -> StepReport {
        guard let profiler else { return try trainer.takeStep() }
        let remaining = run.plan.lastStep - trainer.step
        return try profiler.around(rank: communicator.rank, communicator.device, remaining: remaining) {
            try trainer.takeStep()
        }
    }

    /// Rank 0 writes the trace and hands the profile out when every rank has added its part.
    private func report(_ profiler: StepProfiler) throws {
        try communicator.barrier()
        guard isFirst else { return }
        let profile = profiler.profile(threadsPerRank: threads)
        let path = run.config.run.directory + "/trace.json"
        do { try profile.trace().write(to: URL(fileURLWithPath: path), options: .atomic) } catch {
            throw RingZooError(.inputOutput, "cannot write \(path)", underlying: error)
        }
        try observe(.profiled(profile, tracePath: path))
    }

    private func isDue(_ every: Int?, _ step: Int) -> Bool { every.map { step % $0 == 0 } ?? false }

    private func stateBytes(_ device: any Device) -> Int {
        device.ledger.peak(.parameters) + device.ledger.peak(.gradients) + device.ledger.peak(.optimizer)
    }

    /// The run's directory: the resolved config and the metrics.
    private func openRun(
        _ step: Int, _ reader: CheckpointReader?, _ damaged: [CheckpointDirectory.Damaged]
    ) throws -> MetricsFile {
        let directory = run.config.run.directory
        do {
            try run.config.yaml.write(toFile: directory + "/config.yaml", atomically: true, encoding: .utf8)
        } catch {
            throw RingZooError(.inputOutput, "cannot write \(directory)/config.yaml", underlying: error)
        }
        let passedOver = damaged.map { "passed over \($0.path): \($0.error.message)" }
        try observe(.started(notes: run.notes + passedOver))
        if let reader {
            try observe(
                .resumed(step: step, path: reader.path, inexact: run.inexactness(of: reader, threads: threads)))
        }
        return try MetricsFile(directory + "/metrics.jsonl", goingOnFrom: step)
    }

    private func evaluate(_ trainer: any ModelTrainer, _ metrics: MetricsFile?) throws -> Double? {
        let batches = run.dataset.evaluationBatches(
            rowsPerBatch: run.config.data.batch, limit: run.plan.evaluationBatches)
        let (loss, targets) = try trainer.evaluate(batches)
        if targets == 0 { return nil }
        try metrics?.append(["step": trainer.step, "validationLoss": loss, "validationTargets": targets])
        if isFirst { try observe(.evaluated(step: trainer.step, loss: loss, targets: targets)) }
        return loss
    }

    private var threads: Int { (communicator.device as? CPUDevice)?.pool.workers ?? 1 }

    /// Rank 0 writes; all return when it has.
    private func save(_ trainer: any ModelTrainer) throws {
        let step = trainer.step
        var parts = trainer.model.parameters.map { name, tensor in
            SharedSave.Part(name: CheckpointText.weights + name, parameter: name, tensor: tensor.detached)
        }
        parts += trainer.optimizer.state.map { name, tensor in
            SharedSave.Part(
                name: CheckpointText.optimizer + name, parameter: parameterName(ofOptimizerState: name), tensor: tensor)
        }
        let save = SharedSave(
            parts, of: sharded, over: communicator, patience: run.config.parallel.deadline / 4)
        let texts = try run.checkpointTexts(trainer.state, threads: threads)
        try save.run { [folder] sources in _ = try folder!.save(step: step, tensors: sources, metadata: texts) }
        if isFirst { try observe(.saved(step: step, path: run.checkpointPath(ofStep: step))) }
    }

    private func restore(_ trainer: inout any ModelTrainer, from reader: CheckpointReader) throws {
        guard let text = reader.metadata[CheckpointText.training],
            let state = try? JSONDecoder().decode(TrainingState.self, from: Data(text.utf8))
        else {
            throw RingZooError(
                .corruptInput, "\(reader.path) has no state of a training run",
                tried: ["model: { from: \(reader.path) } starts a new run from its weights"])
        }
        var sources: [String: TensorSource] = [:]
        for source in reader.sources() where source.info.name.hasPrefix(CheckpointText.optimizer) {
            sources[String(source.info.name.dropFirst(CheckpointText.optimizer.count))] = source
        }
        func part(_ name: String) -> ParameterPart {
            sharded.part(of: parameterName(ofOptimizerState: name), stored: sources[name]!.info.shape)
        }
        let saved = Dictionary(
            uniqueKeysWithValues: sources.map { name, source in
                (name, SavedForm(part(name).shape, source.info.dtype))
            })
        try trainer.restore(state, saved: saved) { name in
            try sharded.read(
                sources[name]!, part(name), sources[name]!.info.dtype, on: communicator.device, kind: .optimizer)
        }
    }
}

extension StepMeasure {
    /// The line of `metrics.jsonl`. A number that is not finite is written as null: JSON has no other word for it.
    var json: [String: Any] {
        func number(_ value: Double) -> Any { value.isFinite ? value : NSNull() }
        return [
            "step": report.step, "loss": number(report.loss), "gradientNorm": number(report.gradientNorm),
            "rate": report.rate, "targets": report.targets, "tokens": report.tokens, "skipped": report.skipped,
            "seconds": seconds, "tokensPerSecond": tokensPerSecond, "peakBytes": peakBytes, "stateBytes": stateBytes,
        ]
    }
}
