import ArgumentParser
import DistributedCore
import Foundation
import NeuralCore
import TensorCore
import ZooCore
import ZooStandard

struct PlanCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "plan",
        abstract: "Predict memory and time of a training step per rank, and the longest context that fits.",
        discussion: """
            Example: ringzoo plan --model llama/1b --context 128K --devices 8 --device h100-80g --precision bf16
                     ringzoo plan run.yaml --measure
                     ringzoo plan --paper

            A step is rehearsed: the model, the trainer, the optimizer and the ring run as they are, on a device that counts bytes and seconds \
            and computes nothing. Presets take products to reach \(Int(100 * PlannedDevice.productShare)) % and attention \
            \(Int(100 * PlannedDevice.attentionShare)) % of the peak; --measure measures this machine instead. Every rank holds all weights: \
            parallel.shardParameters is not in this version. Exits with 1 where nothing fits.
            """)

    @Argument(help: "A config; its model, data, attention, parallel, precision and memory are planned for.")
    var config: String?
    @Option(name: .customLong("set"), help: "Override a key of the config: --set data.context=8192. May be repeated.")
    var overrides: [String] = []
    @Option(help: "FAMILY/PRESET, for example llama/7b; see 'ringzoo models'.") var model: String?
    @Option(help: "Tokens of a row over all ranks: 8192, 128K, 1M.") var context: String?
    @Option(help: "Rows of a batch.") var batch = 1
    @Option(help: "Ranks that share the sequence.") var devices = 1
    @Option(help: "One of \(PlannedDevice.presetNames.joined(separator: ", ")).") var device = "a100-80g"
    @Option(help: "float32 or bf16.") var precision = "float32"
    @Flag(help: "Measure this machine, and plan for in-process ranks on it.") var measure = false
    @Flag(help: "Print the paper's table of longest contexts beside a prediction.") var paper = false
    @Flag(help: "One JSON object on standard output.") var json = false

    func run() throws {
        if paper { return json ? try printPaperJSON() : printPaper() }
        let zoo = try ZooStandard.zoo()
        let request = try PlanRequest(self, zoo)
        let planner = Planner(request.blueprint, on: request.device) { try request.attention.make(over: $0) }
        var plans: [Plan] = []
        for rematerialise in request.rematerialise {
            var setting = request.setting
            setting.memory.rematerialiseBlocks = rematerialise
            plans.append(try planner.plan(setting))
        }
        let longest = try plans.map { try planner.longestContext($0.setting) }
        if json {
            try Output.json(["plans": try zip(plans, longest).map { try PlanReport($0, $1, request).object }])
        } else {
            for (plan, longest) in zip(plans, longest) { print(PlanReport(plan, longest, request).table) }
        }
        // The fastest that fits.
        if let best = plans.filter(\.fits).min(by: { $0.step.seconds < $1.step.seconds }) {
            if !json && plans.count > 1 {
                print(
                    "best: memory.rematerialise: \(best.setting.memory.rematerialiseBlocks ? "block" : "none"), the fastest that fits"
                )
            }
            return
        }
        let state = plans[0].step.stateBytes
        var tried = [
            "the longest context that fits: \(grouped(longest.max()!)) tokens",
            "more --devices, for the activations",
        ]
        if state > request.device.memory {
            tried = [
                "weights, gradients and optimizer state alone take \(Terminal.bytes(state)) on every rank;"
                    + " sharded parameters are not in this version",
                "a smaller model",
            ]
        }
        throw RingZooError(
            .failed,
            "\(grouped(request.setting.context)) tokens do not fit \(request.devices) x \(request.device.name)",
            tried: tried)
    }

    private func printPaper() {
        print(
            "Longest contexts of ring attention, thousands (1,024) of tokens: the paper's table 3 and one memory model")
        print("(16 bytes a parameter over all devices, 6 b c h elements of 4 bytes a layer for c tokens of width h)\n")
        print("hardware                       model   paper   fits    power of 2  off by")
        for row in PaperTable.rows {
            print(
                padded(row.hardware, 30) + " " + padded(row.model, 5) + leading(grouped(row.reported / 1024), 8)
                    + leading(grouped(Int(row.limit / 1024)), 8) + leading(grouped(row.predicted / 1024), 12)
                    + leading("\(Terminal.number(row.factor, 2))x", 8))
        }
        let near = PaperTable.rows.count { $0.factor <= 2.5 }
        print("\n\(near) of \(PaperTable.rows.count) rows within 2.5x. \(PaperTable.outliers)")
    }

    private func printPaperJSON() throws {
        try Output.json([
            "rows": PaperTable.rows.map { row -> [String: Any] in
                [
                    "hardware": row.hardware, "devices": row.devices, "model": row.model, "paperTokens": row.reported,
                    "predictedTokens": Int(row.limit), "predictedPowerOfTwo": row.predicted, "factor": row.factor,
                ]
            }
        ])
    }
}

/// What the arguments ask for.
private struct PlanRequest {
    let name: String
    let blueprint: any ModelBlueprint
    let device: PlannedDevice
    let devices: Int
    let attention: AttentionChoice
    let setting: StepRehearsal.Setting
    /// Whether blocks are rematerialised: the config's choice, or both.
    let rematerialise: [Bool]

    init(_ command: PlanCommand, _ zoo: Zoo) throws {
        if command.devices < 1 || command.batch < 1 {
            throw RingZooError(
                .usage, "--devices \(command.devices), --batch \(command.batch)",
                tried: ["at least 1 of each would work"])
        }
        let context = try command.context.map { try tokenCount($0) }
        switch (command.config, command.model) {
        case (let path?, nil):
            let config = try RunConfig.load(path: path, overrides: command.overrides)
            let run = try TrainingRun(config, in: zoo)
            name = run.family.name
            blueprint = run.blueprint
            devices = config.parallel.sequence
            attention = run.attention
            var setting = StepRehearsal.Setting(of: run)
            if let context { setting.context = context }
            self.setting = setting
            rematerialise = [run.plan.memory.rematerialiseBlocks]
        case (nil, let model?):
            let parts = model.split(separator: "/", maxSplits: 1).map(String.init)
            guard parts.count == 2 else {
                throw RingZooError(.usage, "--model is '\(model)'", tried: ["FAMILY/PRESET would work: llama/7b"])
            }
            name = model
            blueprint = try zoo.models.entry(parts[0]).blueprint(preset: parts[1], fields: .mapping([]))
            devices = command.devices
            attention = try AttentionChoice(
                backend: devices > 1 ? "ring" : "auto", local: "auto", ranks: devices, in: zoo)
            var setting = StepRehearsal.Setting(context: context ?? blueprint.context)
            setting.batch = command.batch
            setting.ranks = devices
            setting.precision = try precision(command.precision)
            self.setting = setting
            rematerialise = [false, true]
        default:
            throw RingZooError(.usage, "nothing to plan for, or two things", tried: ["a config, or --model llama/7b"])
        }
        if setting.context < devices {
            throw RingZooError(
                .usage, "a context of \(setting.context) tokens for \(devices) ranks",
                tried: ["at least one token a rank"])
        }
        device =
            command.measure
            ? try MachineSpeed(
                threads: Terminal.threads() ?? CPUDevice.defaultThreads,
                attention: AttentionChoice(backend: "auto", local: "auto", ranks: 1, in: zoo).backend
                    .make(local: nil, over: nil)
            ).device(ranks: devices)
            : try PlannedDevice.preset(command.device, setting.precision)
    }
}

private func precision(_ name: String) throws -> NeuralCore.Precision {
    switch name {
    case "float32": .float32
    case "bf16", "bfloat16": .bfloat16
    default: throw RingZooError(.usage, "--precision is '\(name)'", tried: ["float32 or bf16 would work"])
    }
}

/// 8192, 128K (1,024 each), 1M.
private func tokenCount(_ text: String) throws -> Int {
    let units = ["K": 1 << 10, "M": 1 << 20]
    let unit = text.last.flatMap { units[$0.uppercased()] }
    guard let number = Int(unit == nil ? text : String(text.dropLast())), number > 0, number < 1 << 40 else {
        throw RingZooError(.usage, "--context is '\(text)'", tried: ["8192, 128K or 1M would work"])
    }
    return number * (unit ?? 1)
}

/// A plan for people and for programs.
private struct PlanReport {
    let plan: Plan
    let longest: Int
    let request: PlanRequest

    init(_ plan: Plan, _ longest: Int, _ request: PlanRequest) {
        (self.plan, self.longest, self.request) = (plan, longest, request)
    }

    private var memory: [(String, Int)] {
        let peak = plan.step.peakBytes
        return [
            ("weights", peak[.parameters] ?? 0), ("gradients", peak[.gradients] ?? 0),
            ("optimizer state", peak[.optimizer] ?? 0), ("activations and ring buffers", plan.step.workingBytes),
        ]
    }

    private var seconds: [(String, Double)] {
        RehearsalDevice.Part.allCases.map { part in
            let name =
                switch part {
                case .products: "products"
                case .attention: "attention"
                case .elements: "passes over elements"
                case .optimizer: "optimizer"
                case .communication: "waiting for other ranks"
                }
            return (name, plan.step.spending[part]?.seconds ?? 0)
        }
    }

    var table: String {
        let device = plan.device
        var lines = [
            "\(request.name), \(grouped(request.blueprint.parameterCount)) parameters, \(plan.setting.precision.compute),"
                + " context \(grouped(plan.setting.context)), batch \(plan.setting.batch), \(request.attention.description) on"
                + " \(request.devices) x \(device.name) (\(Terminal.bytes(device.memory)) each), memory.rematerialise:"
                + " \(plan.setting.memory.rematerialiseBlocks ? "block" : "none")"
        ]
        lines += memory.map { "  \(padded($0, 30)) \(leading(Terminal.bytes($1), 12))" }
        lines.append(
            "  \(padded("a rank in all", 30)) \(leading(Terminal.bytes(plan.bytes), 12))  \(plan.fits ? "fits" : "DOES NOT FIT")"
        )
        lines += seconds.map { "  \(padded($0, 30)) \(leading(Terminal.number($1), 10)) s" }
        lines.append(
            "  \(padded("a step", 30)) \(leading(Terminal.number(plan.step.seconds), 10)) s  \(Int(plan.tokensPerSecond)) tokens/s,"
                + " \(Terminal.number(100 * plan.utilisation, 1)) % of peak")
        lines.append("  \(padded("longest context that fits", 30)) \(leading(grouped(longest), 12)) tokens")
        return lines.joined(separator: "\n") + "\n"
    }

    var object: [String: Any] {
        get throws {
            [
                "model": request.name, "parameters": request.blueprint.parameterCount, "device": plan.device.name,
                "devices": request.devices, "context": plan.setting.context, "batch": plan.setting.batch,
                "rematerialise": plan.setting.memory.rematerialiseBlocks ? "block" : "none",
                "bytes": Dictionary(uniqueKeysWithValues: memory), "bytesPerRank": plan.bytes,
                "memory": plan.device.memory, "fits": plan.fits,
                "seconds": Dictionary(uniqueKeysWithValues: seconds), "stepSeconds": plan.step.seconds,
                "tokensPerSecond": plan.tokensPerSecond, "utilisation": plan.utilisation,
                "bytesSentPerRank": plan.step.traffic.bytes, "longestContext": longest,
            ]
        }
    }
}
