import ArgumentParser
import Foundation
import MPICommunicator
import TensorCore
import TrainingCore
import ZooCore
import ZooStandard

struct TrainCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "train", abstract: "Train a model, or fine-tune one (model: { from: F.h5 }).",
        discussion: """
            Example: ringzoo train run.yaml --set optimizer.rate=1e-4 --ranks 4

            The run's directory gets config.yaml (every key written out), metrics.jsonl (one object per step) and checkpoints/. \
            mpirun -n 4 ringzoo train run.yaml runs the same on four processes (parallel.sequence: 4). \
            A step is planned first (ringzoo plan), and a run that cannot fit ends before it takes any memory. \
            SIGINT, SIGTERM and SIGUSR1 finish the step, save and end with code 75; --resume goes on, bit for bit.
            """)

    @Argument(help: "The config file (YAML).") var config: String
    @Option(name: .customLong("set"), help: "Override a key: --set optimizer.rate=1e-4. May be repeated.")
    var overrides: [String] = []
    @Option(help: "Ranks that share the sequence; sets parallel.sequence.") var ranks: Int?
    @Flag(
        help: "Show where the time of a step goes; also writes trace.json (for Perfetto) beside the metrics.")
    var profile = false
    @Flag(help: "Start also where the plan says that memory does not suffice.") var unplanned = false
    @Flag(help: "Go on from the newest whole checkpoint of the run's directory.") var resume = false

    func run() throws {
        let extra = ranks.map { ["parallel.sequence=\($0)"] } ?? []
        let config = try RunConfig.load(path: config, overrides: overrides + extra)
        let run = try TrainingRun(config, in: ZooStandard.zoo(), threads: Terminal.threads())
        if !unplanned { try requireMemory(run) }
        let stop = StopRequest()
        let signals = StopSignals(stop)
        let progress = TrainingProgress()
        let summary = try run.train(resume: resume, profile: profile, stop: stop) { progress.show($0) }
        signals.end()
        if summary.interrupted { throw ExitCode(RingZooError.Code.interrupted.exitCode) }
    }

    private func requireMemory(_ run: TrainingRun) throws {
        do {
            try run.requireMemory()
        } catch let error as RingZooError where error.code == .config {
            Terminal.note("memory was not planned: \(error.message)")
        }
    }
}

/// The first SIGINT, SIGTERM or SIGUSR1 asks the run to stop; a second one ends the process at once.
final class StopSignals {
    private let sources: [any DispatchSourceSignal]

    init(_ stop: StopRequest) {
        sources = [SIGINT, SIGTERM, SIGUSR1].map { number in
            signal(number, SIG_IGN)
            let source = DispatchSource.makeSignalSource(signal: number, queue: .global())
            source.setEventHandler {
                // What mpirun sends to those who are left when a rank has died.
                if number == SIGTERM, let wait = MPIProcess.wait { Terminal.error(wait) }
                if stop.isMade { exit(128 + number) }
                Terminal.note("\nstopping after this step; a second signal ends at once")
                stop.make()
            }
            source.resume()
            return source
        }
    }

    func end() { for source in sources { source.cancel() } }
}

/// A bar with rate and time left on a terminal, plain lines otherwise.
final class TrainingProgress: Sendable {
    private let interactive = Terminal.isInteractive

    func show(_ event: TrainingEvent) {
        switch event {
        case .started(let notes):
            for note in notes { Terminal.note(note) }
        case .resumed(let step, let path, let inexact):
            Terminal.note("resumed after step \(step) from \(path)")
            if let inexact {
                Terminal.note("the losses will be close, but may not be bit-equal, to an undisturbed run (\(inexact))")
            }
        case .stepped(let measure):
            step(measure)
        case .evaluated(let step, let loss, let targets):
            clear()
            Terminal.note(
                "step \(step): validation loss \(Terminal.number(loss)), perplexity \(Terminal.number(Foundation.exp(loss), 2)), \(grouped(targets)) targets"
            )
        case .saved(let step, let path):
            clear()
            Terminal.note("step \(step): saved \(path)")
        case .profiled(let profile, let path):
            clear()
            Output.write(ProfileTable(profile).text)
            Terminal.note("trace: \(path)")
        case .finished(let summary):
            clear()
            let words = summary.interrupted ? "stopped on request" : summary.complete ? "done" : "ended early as asked"
            Terminal.note("\(words) at step \(summary.step) after \(Terminal.duration(summary.seconds))")
        }
    }

    private func step(_ measure: StepMeasure) {
        let report = measure.report
        let left = Double(measure.lastStep - report.step) * measure.seconds
        let peak = byteText(measure.peakBytes.max() ?? 0)
        let text =
            "step \(report.step)/\(measure.lastStep)  loss \(Terminal.number(report.loss))\(report.skipped ? " (skipped)" : "")  "
            + "\(Int(measure.tokensPerSecond)) tokens/s  peak \(peak) a rank  left \(Terminal.duration(left))"
        if interactive {
            let width = 24
            let filled = width * report.step / max(1, measure.lastStep)
            Terminal.status(
                "[" + String(repeating: "#", count: filled) + String(repeating: ".", count: width - filled) + "] "
                    + text)
        } else if report.step == 1 || report.step == measure.lastStep
            || report.step % max(1, measure.lastStep / 20) == 0
        {
            Terminal.note(text)
        }
    }

    private func clear() { if interactive { Terminal.status("") } }
}
