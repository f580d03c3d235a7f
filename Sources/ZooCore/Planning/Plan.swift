import AttentionCore
import DistributedCore
import NeuralCore
import TensorCore

/// One way to train a model on some devices, and what it would take on the rank that has most to do.
public struct Plan: Sendable {
    public let setting: StepRehearsal.Setting
    public let device: PlannedDevice
    public let step: StepRehearsal

    /// Bytes of a rank at its peak.
    public var bytes: Int { step.peakOfAll }
    /// Whether the device and the budget have room for it.
    public var fits: Bool { room.allSatisfy { $0.needed <= $0.limit } }

    /// What is needed of everything that is limited.
    fileprivate var room: [(needed: Int, limit: Int)] {
        [(bytes, device.memory)] + (setting.budget.map { [(step.workingBytes, $0)] } ?? [])
    }

    /// Tokens of all ranks in a second.
    public var tokensPerSecond: Double { Double(setting.context * setting.batch * setting.accumulate) / step.seconds }
    /// The share of the device's peak that products and attention reach over a step, those that compute blocks again included.
    public var utilisation: Double { step.flops / step.seconds / device.peak }
}

/// Finds plans by rehearsing steps.
public struct Planner: Sendable {
    public let training: PlannedTraining
    public let device: PlannedDevice

    public init(_ training: PlannedTraining, on device: PlannedDevice) {
        (self.training, self.device) = (training, device)
    }

    /// Rehearses a step on the rank that has most to do.
    public func plan(_ setting: StepRehearsal.Setting) throws -> Plan {
        var setting = setting
        setting.rank = try busiestRank(setting)
        return try rehearse(setting)
    }

    /// The same on the rank that the setting names.
    func rehearse(_ setting: StepRehearsal.Setting) throws -> Plan {
        let step = try StepRehearsal(
            of: training, setting, on: device.speed, workers: device.workers, link: device.link)
        return Plan(setting: setting, device: device, step: step)
    }

    /// Of the ranks that share a sequence, the one with most FLOPs, and most bytes among equals.
    ///
    /// In every layout and strategy it is the first, the last (causal work grows with a contiguous layout, and of heads that do not divide
    /// evenly the last rank has the most), or the one with the largest share.
    func busiestRank(_ setting: StepRehearsal.Setting) throws -> Int {
        let largest = setting.shares.map { $0.firstIndex(of: $0.max()!)! } ?? 0
        let candidates = Set([0, setting.mesh.sequence - 1, largest])
        if candidates.count == 1 { return 0 }
        let plans = try candidates.sorted().map { rank in
            var setting = setting
            setting.rank = rank
            return try rehearse(setting)
        }
        return plans.max { ($0.step.flops, $0.bytes) < ($1.step.flops, $1.bytes) }!.setting.rank
    }

    /// Every way to share the work of `setting` among so many ranks that the model and the batch allow, each with whole and with sharded
    /// parameters (where there are others to share with), and with blocks kept and computed again.
    public func settings(_ setting: StepRehearsal.Setting, ranks: Int) throws -> [StepRehearsal.Setting] {
        let whole = try ShardedBlueprint(training.blueprint, ParameterSharding())
        let divisors = (1...ranks).filter { ranks % $0 == 0 }
        var settings: [StepRehearsal.Setting] = []
        for tensor in divisors where whole.tensorParallelFaults(ranks: tensor).isEmpty {
            for data in divisors where ranks / tensor % data == 0 && data <= setting.batch {
                let mesh = ProcessMesh.Shape(data: data, sequence: ranks / tensor / data, tensor: tensor)
                if mesh.sequence > setting.context || !training.attention.takes(ranks: mesh.sequence) { continue }
                for (sharded, again) in [(false, false), (false, true), (true, true)] {
                    let replicas = mesh.data * mesh.sequence
                    if sharded && (replicas == 1 || !whole.hasEvenRows(over: replicas, tensorRanks: tensor)) {
                        continue
                    }
                    var setting = setting
                    if mesh.sequence != setting.mesh.sequence { setting.shares = nil }
                    setting.mesh = mesh
                    setting.shardParameters = sharded
                    setting.memory.rematerialiseBlocks = again
                    settings.append(setting)
                }
            }
        }
        return settings
    }

    /// The longest context that fits, in multiples of 64 tokens a rank; 0 where none does.
    ///
    /// Up to 32,768 tokens a rank by rehearsals (bisection); beyond, where memory is linear in the context, by the line through
    /// the last two.
    public func longestContext(_ setting: StepRehearsal.Setting) throws -> Int {
        let (unit, known) = (64, 512)
        let rank = try busiestRank(setting)
        func planned(_ units: Int) throws -> Plan {
            var setting = setting
            setting.context = units * unit * setting.mesh.sequence
            setting.rank = rank
            return try rehearse(setting)
        }
        if try !planned(1).fits { return 0 }
        var (fits, fails) = (1, known)
        let (half, whole) = (try planned(known / 2), try planned(known))
        if whole.fits {
            let more = zip(half.room, whole.room).map { half, whole in
                let slope = Double(whole.needed - half.needed) / Double(known - known / 2)
                return Int(Double(whole.limit - whole.needed) / slope)
            }
            fits = known + more.min()!
        } else {
            while fails - fits > 1 {
                let middle = (fits + fails) / 2
                if try planned(middle).fits { fits = middle } else { fails = middle }
            }
        }
        return fits * unit * setting.mesh.sequence
    }
}
