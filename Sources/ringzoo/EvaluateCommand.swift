import ArgumentParser
import Foundation
import TensorCore
import ZooCore
import ZooStandard

struct EvaluateCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "evaluate", abstract: "Measure a checkpoint on the validation part of a config's data.",
        discussion: """
            Example: ringzoo evaluate run.yaml --checkpoint runs/first/checkpoints/step-00001000.h5 --ranks 4

            The model and its sizes come from the checkpoint; data, attention, parallel, precision and memory from the config. \
            With --json there is one object: checkpoint, loss (mean per target, natural logarithm), perplexity, bitsPerByte \
            (null where the targets stand for no text), targets, bytes, batches, ranks, seconds, tokensPerSecond.
            """)

    @Argument(help: "The config file (YAML).") var config: String
    @Option(help: "The checkpoint to measure.") var checkpoint: String
    @Option(name: .customLong("set"), help: "Override a key: --set data.path=other.txt. May be repeated.")
    var overrides: [String] = []
    @Option(help: "Ranks that share the sequence; sets parallel.sequence.") var ranks: Int?
    @Option(help: "Batches to read at most.") var limit: Int?
    @Flag(help: "Print one JSON object and nothing else.") var json = false

    func run() throws {
        let extra = ranks.map { ["parallel.sequence=\($0)"] } ?? []
        let config = try RunConfig.load(path: config, overrides: overrides + extra)
        let evaluation = try Evaluation(
            config, checkpoint: checkpoint, limit: limit, in: ZooStandard.zoo(), threads: Terminal.threads())
        for note in evaluation.notes { Terminal.note(note) }
        let progress = EvaluationProgress(total: evaluation.expectedTokens)
        let outcome = try evaluation.measure { progress.show($0) }
        progress.end()
        if json { try printJSON(outcome) } else { printTable(outcome) }
    }

    private func printTable(_ outcome: Evaluation.Outcome) {
        let bits = outcome.bitsPerByte.map { Terminal.number($0) } ?? "unknown: the targets stand for no text"
        for (name, value) in [
            ("checkpoint", checkpoint), ("loss", "\(Terminal.number(outcome.loss)) per target (natural logarithm)"),
            ("perplexity", Terminal.number(outcome.perplexity)), ("bits per byte", bits),
            ("targets", grouped(outcome.targets)), ("bytes", grouped(outcome.bytes)),
            ("ranks", "\(outcome.ranks)"), ("time", "\(Terminal.number(outcome.seconds, 1)) s"),
        ] {
            Output.write("\(padded(name, 14)) \(value)\n")
        }
    }

    private func printJSON(_ outcome: Evaluation.Outcome) throws {
        try Output.json([
            "checkpoint": checkpoint, "loss": Output.number(outcome.loss),
            "perplexity": Output.number(outcome.perplexity), "bitsPerByte": Output.number(outcome.bitsPerByte),
            "targets": outcome.targets, "bytes": outcome.bytes, "batches": outcome.batches, "ranks": outcome.ranks,
            "seconds": outcome.seconds, "tokensPerSecond": Double(outcome.tokens) / max(outcome.seconds, 1e-9),
        ])
    }
}

/// Rate and time left on a terminal; nothing otherwise, since the table comes soon enough.
private struct EvaluationProgress: Sendable {
    private let total: Int
    private let begin = Date()
    private let interactive = Terminal.isInteractive

    init(total: Int) { self.total = total }

    func show(_ tokens: Int) {
        if !interactive { return }
        let rate = Double(tokens) / max(1e-9, Date().timeIntervalSince(begin))
        let left = Terminal.duration(Double(max(0, total - tokens)) / rate)
        Terminal.status(
            "\(grouped(tokens)) of \(grouped(max(total, tokens))) tokens  \(Int(rate)) tokens/s  left \(left)")
    }

    func end() { if interactive { Terminal.status("") } }
}
