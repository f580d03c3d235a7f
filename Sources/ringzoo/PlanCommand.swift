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
            Example: ringzoo plan run.yaml
                     ringzoo plan --model llama/1b --context 128K --devices 8 --device h100-80g --precision bf16
                     ringzoo plan --paper

            A step is rehearsed: the model, the trainer, the optimizer and the ring run as they are, on a device that counts bytes and seconds \
            and computes nothing. A config is planned for this machine, on which the step's operations are timed for some seconds; \
            with --device for another one. Presets take products to reach \(Int(100 * PlannedDevice.productShare)) % and attention \
            \(Int(100 * PlannedDevice.attentionShare)) % of the peak. With --model, every \
            mesh of the devices (data x sequence x tensor), whole and sharded parameters, blocks kept and computed again are compared, and \
            the fastest that fits is shown. Exits with 1 where nothing fits.
            """)

    @Argument(help: "A config; its model, data, attention, parallel, precision and memory are planned for.")
    var config: String?
    @Option(name: .customLong("set"), help: "Override a key of the config: --set data.context=8192. May be repeated.")
    var overrides: [String] = []
    @Option(help: "FAMILY/PRESET, for example llama/7b; see 'ringzoo models'.") var model: String?
    @Option(help: "Tokens of a row over all ranks: 8192, 128K, 1M.") var context: String?
    @Option(help: "Rows of a batch.") var batch = 1
    @Option(help: "Devices; with a config, its own ranks count.") var devices = 1
    @Option(
        help:
            "One of \(PlannedDevice.presetNames.joined(separator: ", ")). Without it: this machine for a config, \(Self.usualDevice) for --model."
    )
    var device: String?
    @Option(help: "float32 or bf16.") var precision = "float32"
    @Flag(help: "Plan for this machine, by measurement, also with --model.") var measure = false
    @Flag(help: "Print the paper's table of longest contexts beside a prediction.") var paper = false
    @Flag(help: "One JSON object on standard output.") var json = false

    /// What a model is planned for where nothing is said.
    static let usualDevice = "a100-80g"

    func run() throws {
        if paper { return json ? try printPaperJSON() : printPaper() }
        let zoo = try ZooStandard.zoo()
        let request = try PlanRequest(self, zoo)
        let planner = Planner(request.training, on: request.device)
        let settings =
            request.isFixed
            ? [request.setting] : try planner.settings(request.setting, ranks: request.devices)
        // The fastest that fits comes first; what does not fit, by what it lacks.
        let plans = try settings.map { try planner.plan($0) }.sorted {
            ($0.fits ? 0 : 1, $0.fits ? $0.step.seconds : Double($0.bytes))
                < ($1.fits ? 0 : 1, $1.fits ? $1.step.seconds : Double($1.bytes))
        }
        let best = plans[0]
        // Who needs the least memory here goes furthest; a mesh with more ranks on the sequence may go further still.
        let candidates = [best] + plans.sorted { $0.bytes < $1.bytes }.prefix(2)
        let longest = try candidates.map { (plan: $0, tokens: try planner.longestContext($0.setting)) }
        let furthest = longest.max { $0.tokens < $1.tokens }!
        if json {
            let reports = try plans.enumerated().map { index, plan in
                try PlanReport(plan, index == 0 ? longest[0].tokens : nil, request).object
            }
            try Output.json(["plans": reports])
        } else {
            if plans.count > 1 { print(PlanReport.comparison(plans)) }
            print(PlanReport(best, longest[0].tokens, request).table)
            if plans.count > 1 && furthest.tokens > longest[0].tokens {
                print("longest context of all: \(grouped(furthest.tokens)) tokens with \(furthest.plan.setting.words)")
            }
        }
        if best.fits { return }
        let state = best.step.stateBytes
        let budget = best.setting.budget.map { " with a memory.budget of \(byteText($0))" } ?? ""
        throw RingZooError(
            .failed,
            "\(grouped(request.setting.context)) tokens do not fit \(request.devices) x \(request.device.name)\(budget)",
            tried: state > request.device.memory
                ? [
                    "weights, gradients and optimizer state alone take \(byteText(state)) on every rank",
                    "more --devices with sharded parameters, or a smaller model",
                ]
                : [
                    "the longest context that fits: \(grouped(furthest.tokens)) tokens with \(furthest.plan.setting.words)",
                    "more --devices, for the activations",
                ])
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
    let training: PlannedTraining
    let device: PlannedDevice
    /// How much the speed of this machine moved while it was measured; nil for a preset.
    let spread: ClosedRange<Double>?
    let devices: Int
    let setting: StepRehearsal.Setting
    /// Whether the mesh is the config's, and is not to be chosen.
    let isFixed: Bool

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
            training = PlannedTraining(run)
            devices = run.mesh.ranks
            var setting = StepRehearsal.Setting(of: run)
            if let context { setting.context = context }
            self.setting = setting
            isFixed = true
        case (nil, let model?):
            let parts = model.split(separator: "/", maxSplits: 1).map(String.init)
            guard parts.count == 2 else {
                throw RingZooError(.usage, "--model is '\(model)'", tried: ["FAMILY/PRESET would work: llama/7b"])
            }
            name = model
            let blueprint = try zoo.models.entry(parts[0]).blueprint(preset: parts[1], fields: .mapping([]))
            devices = command.devices
            let attention = try AttentionChoice(
                backend: devices > 1 ? "ring" : "auto", local: "auto", ranks: devices, in: zoo)
            training = PlannedTraining(blueprint, attention)
            var setting = StepRehearsal.Setting(context: context ?? blueprint.context)
            setting.batch = command.batch
            setting.precision = try precision(command.precision)
            self.setting = setting
            isFixed = false
        default:
            throw RingZooError(.usage, "nothing to plan for, or two things", tried: ["a config, or --model llama/7b"])
        }
        if setting.context < devices {
            throw RingZooError(
                .usage, "a context of \(setting.context) tokens for \(devices) ranks",
                tried: ["at least one token a rank"])
        }
        if let device = command.device, command.measure {
            throw RingZooError(
                .usage, "--device \(device) and --measure", tried: ["--measure plans for this machine: one of the two"])
        }
        let preset = command.measure ? nil : command.device ?? (isFixed ? nil : PlanCommand.usualDevice)
        if let preset {
            device = try .preset(preset, setting.precision)
            spread = nil
        } else {
            // Of a model, how the ranks share the work is not known yet.
            var measured = setting
            if !isFixed { measured.mesh.sequence = devices }
            let threads = try Terminal.threads() ?? CPUDevice.defaultThreads
            let machine = try MachineSpeed(for: training, measured, threads: threads)
            (device, spread) = (machine.device, machine.spread)
        }
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
    /// Tokens; nil where it was not looked for.
    let longest: Int?
    let request: PlanRequest

    init(_ plan: Plan, _ longest: Int?, _ request: PlanRequest) {
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

    /// What attention is counted by.
    private var documents: String {
        if let length = plan.setting.documentLength {
            return
                "attention within documents of \(grouped(length)) tokens, which show as many pairs of tokens as the data's"
        }
        return "attention over whole rows, each of which is one document"
            + (request.isFixed ? " in the data" : ": a config's plan counts its data's documents")
    }

    /// One line for each plan, the best first.
    static func comparison(_ plans: [Plan]) -> String {
        let lines = plans.map { plan in
            leading("\(plan.setting.mesh.data)", 4) + leading("\(plan.setting.mesh.sequence)", 10)
                + leading("\(plan.setting.mesh.tensor)", 8)
                + "  " + padded(plan.setting.shardParameters ? "sharded" : "whole", 10)
                + padded(plan.setting.memory.rematerialiseBlocks ? "block" : "none", 12)
                + leading(byteText(plan.bytes), 12) + (plan.fits ? "  fits  " : "  no    ")
                + leading(Terminal.number(plan.step.seconds), 10) + " s"
                + leading(Terminal.number(100 * plan.utilisation, 1), 8) + " %"
        }
        let head = "data  sequence  tensor  weights   recomputed     bytes a rank          a step         of peak"
        return ([head] + lines).joined(separator: "\n") + "\n"
    }

    var table: String {
        let device = plan.device
        var lines = [
            "\(request.name), \(grouped(request.training.blueprint.parameterCount)) parameters, \(plan.setting.precision.compute),"
                + " context \(grouped(plan.setting.context)), batch \(plan.setting.batch), \(request.training.attention.description) on"
                + " \(request.devices) x \(device.name) (\(byteText(device.memory)) each), \(plan.setting.words)"
        ]
        lines.append("  \(documents)")
        lines += memory.map { "  \(padded($0, 30)) \(leading(byteText($1), 12))" }
        lines.append(
            "  \(padded("a rank in all", 30)) \(leading(byteText(plan.bytes), 12))  \(plan.fits ? "fits" : "DOES NOT FIT")"
        )
        lines += seconds.map { "  \(padded($0, 30)) \(leading(Terminal.number($1), 10)) s" }
        lines.append(
            "  \(padded("a step", 30)) \(leading(Terminal.number(plan.step.seconds), 10)) s  \(Int(plan.tokensPerSecond)) tokens/s,"
                + " \(Terminal.number(100 * plan.utilisation, 1)) % of peak")
        if let spread = request.spread {
            let (low, high) = (spread.lowerBound * plan.step.seconds, spread.upperBound * plan.step.seconds)
            lines.append(
                "  \(padded("while measured", 30)) \(leading(Terminal.number(low), 10)) s to \(Terminal.number(high)) s, the middle half of the time"
            )
        }
        if let longest {
            lines.append("  \(padded("longest context that fits", 30)) \(leading(grouped(longest), 12)) tokens")
        }
        return lines.joined(separator: "\n") + "\n"
    }

    var object: [String: Any] {
        get throws {
            var object: [String: Any] = [
                "model": request.name, "parameters": request.training.blueprint.parameterCount,
                "device": plan.device.name,
                "devices": request.devices, "context": plan.setting.context, "batch": plan.setting.batch,
                "rematerialise": plan.setting.memory.rematerialiseBlocks ? "block" : "none",
                "bytes": Dictionary(uniqueKeysWithValues: memory), "bytesPerRank": plan.bytes,
                "memory": plan.device.memory, "fits": plan.fits,
                "seconds": Dictionary(uniqueKeysWithValues: seconds), "stepSeconds": plan.step.seconds,
                "tokensPerSecond": plan.tokensPerSecond, "utilisation": plan.utilisation,
                "bytesSentPerRank": plan.step.totalTraffic.bytes, "data": plan.setting.mesh.data,
                "sequence": plan.setting.mesh.sequence, "tensor": plan.setting.mesh.tensor,
                "shardParameters": plan.setting.shardParameters,
            ]
            if let longest { object["longestContext"] = longest }
            if let length = plan.setting.documentLength { object["documentLength"] = length }
            if let spread = request.spread {
                object["stepSecondsSpread"] = [spread.lowerBound, spread.upperBound].map { $0 * plan.step.seconds }
            }
            return object
        }
    }
}
