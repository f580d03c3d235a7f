import AttentionCore
import DistributedCore
import NeuralCore
import TensorCore

/// One way to train a model on some devices, and what it would take on the rank that has most to do.
public struct Plan: Sendable {
    public let setting: StepRehearsal.Setting
    public let device: PlannedDevice
    public let step: StepRehearsal

    /// Bytes of everything at its peak. The parts reach theirs at different times, so this is an upper bound.
    public var bytes: Int { step.stateBytes + step.workingBytes }
    public var fits: Bool { bytes <= device.memory }

    /// Tokens of all ranks in a second.
    public var tokensPerSecond: Double { Double(setting.context * setting.batch * setting.accumulate) / step.seconds }
    /// The share of the device's peak that products and attention reach over a step, those that compute blocks again included.
    public var utilisation: Double { step.flops / step.seconds / device.peak }
}

/// Finds plans by rehearsing steps.
public struct Planner: Sendable {
    public let blueprint: any ModelBlueprint
    public let device: PlannedDevice
    private let attention: @Sendable (any Communicator) throws -> any AttentionBackend

    /// - Parameter attention: the backend over a communicator; all ranks' sequence attention goes through it.
    public init(
        _ blueprint: any ModelBlueprint, on device: PlannedDevice,
        attention: @escaping @Sendable (any Communicator) throws -> any AttentionBackend
    ) {
        self.blueprint = blueprint
        self.device = device
        self.attention = attention
    }

    /// Rehearses a step on the rank that has most to do.
    public func plan(_ setting: StepRehearsal.Setting) throws -> Plan {
        var setting = setting
        // The causal work of a contiguous layout grows with the rank; in the others all have the same, and rank 0 the odd token.
        // With shares the one with the largest share.
        setting.rank = setting.layout == .contiguous ? setting.mesh.sequence - 1 : 0
        if let shares = setting.shares { setting.rank = shares.firstIndex(of: shares.max()!)! }
        let step = try StepRehearsal(
            of: blueprint, setting, on: device.speed, workers: device.workers, link: device.link,
            attention: attention)
        return Plan(setting: setting, device: device, step: step)
    }

    /// Every way to share the work of `setting` among so many ranks that the model and the batch allow, each with whole and with sharded
    /// parameters (where there are others to share with), and with blocks kept and computed again.
    public func settings(_ setting: StepRehearsal.Setting, ranks: Int) throws -> [StepRehearsal.Setting] {
        let whole = try ShardedBlueprint(blueprint, ParameterSharding())
        let divisors = (1...ranks).filter { ranks % $0 == 0 }
        var settings: [StepRehearsal.Setting] = []
        for tensor in divisors where whole.tensorParallelFaults(ranks: tensor).isEmpty {
            for data in divisors where ranks / tensor % data == 0 && data <= setting.batch {
                let mesh = ProcessMesh.Shape(data: data, sequence: ranks / tensor / data, tensor: tensor)
                if mesh.sequence > setting.context { continue }
                for (sharded, again) in [(false, false), (false, true), (true, true)] {
                    if sharded && mesh.data * mesh.sequence == 1 { continue }
                    var setting = setting
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
        func bytes(_ units: Int) throws -> Int {
            var setting = setting
            setting.context = units * unit * setting.mesh.sequence
            return try plan(setting).bytes
        }
        var (fits, fails) = (0, known)
        let (half, whole) = (try bytes(known / 2), try bytes(known))
        if whole <= device.memory {
            let slope = Double(whole - half) / Double(known - known / 2)
            fits = known + Int(Double(device.memory - whole) / slope)
        } else {
            while fails - fits > 1 {
                let middle = (fits + fails) / 2
                if try bytes(middle) <= device.memory { fits = middle } else { fails = middle }
            }
        }
        return fits * unit * setting.mesh.sequence
    }
}
