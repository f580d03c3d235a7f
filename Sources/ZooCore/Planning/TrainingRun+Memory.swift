import DistributedCore
import NeuralCore
import TensorCore

extension TrainingRun {
    /// Refuses a run that cannot fit, by its plan: nothing of a tensor's size is allocated, and nothing is written.
    ///
    /// What is counted is what the ledger counts, of all ranks that share the memory. A run that is not refused may still run out of memory:
    /// the program, its data, and what other processes use come on top.
    /// - Throws: `.failed` that names what each part needs, what there is, and what would fit. What a rehearsal throws where a backend
    ///   cannot be rehearsed.
    public func requireMemory(within limits: [MemoryLimit] = MemoryLimit.ofThisMachine()) throws {
        let setting = StepRehearsal.Setting(of: self)
        let training = PlannedTraining(self)
        let ranksHere = ranks.link.isInProcess ? mesh.ranks : ranks.link.launch?.ranksHere ?? 1
        let ranksOfProcess = ranks.link.isInProcess ? mesh.ranks : 1
        /// The limit and the share of one rank, where that is the tightest.
        let tightest = limits.map { (limit: $0, ranks: $0.isPerProcess ? ranksOfProcess : ranksHere) }
            .min { $0.limit.bytes / $0.ranks < $1.limit.bytes / $1.ranks }!
        let planner = Planner(
            training,
            on: .nominal(
                memory: tightest.limit.bytes / tightest.ranks,
                workers: max(1, (threads ?? CPUDevice.defaultThreads) / ranksOfProcess)))
        let plan = try planner.plan(setting)
        if plan.fits { return }
        let overBudget = config.memory.budget.map { plan.step.workingBytes > $0 } ?? false
        // The other ranks may need less than the one with most to do.
        let needed =
            tightest.ranks == mesh.ranks ? try planner.bytesOfAllRanks(setting) : plan.bytes * tightest.ranks
        if !overBudget && needed <= tightest.limit.bytes { return }

        let what =
            overBudget
            ? "a rank needs \(byteText(plan.step.workingBytes)) of activations and ring buffers, memory.budget is \(byteText(config.memory.budget!))"
            : "\(tightest.ranks) rank\(tightest.ranks == 1 ? " needs" : "s need") \(byteText(needed)), \(tightest.limit.name) is \(byteText(tightest.limit.bytes))"
        throw RingZooError(
            .failed, "this run does not fit: \(what)",
            tried: ["a rank takes \(plan.partsText)"] + (try planner.waysOut(of: setting))
                + [
                    overBudget ? "a larger memory.budget" : "more machines (Docs/ManyMachines.md), or a smaller model",
                    "ringzoo train --unplanned starts it anyway",
                ])
    }
}

extension Planner {
    /// Bytes of all ranks at their peaks.
    fileprivate func bytesOfAllRanks(_ setting: StepRehearsal.Setting) throws -> Int {
        let ofSequence = try (0..<setting.mesh.sequence).map { rank in
            var setting = setting
            setting.rank = rank
            return try rehearse(setting).bytes
        }
        return ofSequence.reduce(0, +) * setting.mesh.data * setting.mesh.tensor
    }

    /// What would fit instead: a shorter context as it is, this context with the work shared otherwise among as many ranks, and where
    /// there is none, the longest context of all.
    fileprivate func waysOut(of setting: StepRehearsal.Setting) throws -> [String] {
        let shorter = try longestContext(setting)
        let asItIs = shorter > 0 ? ["data.context: \(shorter) would fit as it is"] : []
        let others = try settings(setting, ranks: setting.mesh.ranks).map { try plan($0) }
        if let fastest = others.filter(\.fits).min(by: { $0.step.seconds < $1.step.seconds }) {
            return asItIs + ["\(fastest.setting.words) would fit with this context"]
        }
        let smallest = others.min { $0.bytes < $1.bytes }
        guard let smallest, case let longest = try longestContext(smallest.setting), longest > shorter else {
            return asItIs
        }
        return asItIs + ["data.context: \(longest) would fit with \(smallest.setting.words)"]
    }
}

extension Plan {
    /// What a rank's bytes are for. The parts reach their peaks at different times, so they may add up to more than the rank's.
    fileprivate var partsText: String {
        let peak = step.peakBytes
        let parts = [
            ("weights", peak[.parameters] ?? 0), ("gradients", peak[.gradients] ?? 0),
            ("optimizer state", peak[.optimizer] ?? 0), ("activations and ring buffers", step.workingBytes),
        ]
        return parts.map { "\(byteText($1)) for \($0)" }.joined(separator: ", ")
    }
}

extension PlannedDevice {
    /// Some rank of this machine whose speed does not matter.
    fileprivate static func nominal(memory: Int, workers: Int) -> PlannedDevice {
        PlannedDevice(
            name: "this machine", memory: memory, peak: 1e11,
            speed: DeviceSpeed(products: 1e11, attention: 5e10, memory: 1e10, launch: 0),
            link: LinkSpeed(bandwidth: 1e10, latency: 1e-5, overlaps: false), workers: workers)
    }
}
