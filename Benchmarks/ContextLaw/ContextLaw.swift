import ArgumentParser
import DistributedCore
import Foundation
import MPICommunicator
import TensorCore
import ZooCore
import ZooStandard

/// The context law: with the same memory for every rank, the longest context that trains grows with the number of ranks.
///
/// Two ways to hold ranks to it. `--budget`: ranks are threads, and the device's allocator bounds activations and ring buffers;
/// weights, gradients and optimizer state are counted apart. `--limit`: ranks are processes over MPI, and the kernel bounds everything a
/// process may write to (`DataLimit`).
@main
struct ContextLaw: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "context-law",
        abstract: "Find the longest context that trains on N ranks with the same memory for each.",
        discussion: """
            Example: context-law --budget 8 --ranks 1,2,4,8
                     context-law --limit 104 --layers 16    # processes, with a hard limit for each
            """)

    @Option(help: "MiB of activations and ring buffers per rank, for ranks that are threads.") var budget = 8.0
    @Option(help: "MiB of one process in all: ranks are processes that mpirun starts.") var limit: Double?
    @Option(help: "Numbers of ranks, separated by commas.") var ranks = "1,2,4,8"
    @Option(help: "Preset of the llama model.") var preset = "debug"
    @Option(help: "Layers, where not the preset's.") var layers: Int?
    @Option(help: "Contexts tried are multiples of this; of so many tokens a rank, for processes.") var step = 32
    @Option(help: "A text; every byte is a token.") var text = "Tests/Corpus/harbour.txt"
    @Option(help: ArgumentHelp("Train one step of this context as a rank of an MPI job.", visibility: .hidden))
    var oneStep: Int?

    /// The longest context of so many ranks, and what a rank held then.
    struct Row {
        var ranks, context: Int
        var reading: OneStep.Reading
    }

    func run() throws {
        if let oneStep { return try runAsRank(context: oneStep) }
        let memory =
            limit.map { "\($0) MiB a process in all" } ?? "\(budget) MiB a rank for activations and ring buffers"
        print("\(memory); model llama/\(preset)\(layers.map { " of \($0) layers" } ?? ""), batch 1, float32, zigzag")
        var rows: [Row] = []
        for count in ranks.split(separator: ",").compactMap({ Int($0) }) {
            let guess = rows.last.map { $0.context * count / $0.ranks }
            rows.append(try longest(ranks: count, guess: guess))
        }
        printLaw(rows)
        if limit != nil { printPaper(rows) }
    }

    /// Bisection, from a guess where there is one.
    private func longest(ranks: Int, guess: Int?) throws -> Row {
        let step = limit == nil ? step : step * ranks
        var row = Row(ranks: ranks, context: 0, reading: .init(peak: 0, state: 0))
        var fails = Int.max
        func attempt(_ context: Int) throws {
            let context = max(step, context / step * step)
            if let reading = try reading(context, ranks) {
                if context > row.context { row = Row(ranks: ranks, context: context, reading: reading) }
            } else {
                fails = min(fails, context)
            }
        }
        if let guess {
            try attempt(guess * 15 / 16)
            try attempt(guess * 17 / 16)
        }
        while fails == .max { try attempt(2 * row.context) }
        while fails - row.context > step { try attempt((row.context + fails) / 2) }
        return row
    }

    private func reading(_ context: Int, _ ranks: Int) throws -> OneStep.Reading? {
        if limit != nil { return try LimitedJob(ranks: ranks, arguments(context)).run() }
        return try model(context).run(ranks: ranks, over: ThreadLinkProvider(), budget: Int(budget * 1_048_576))
    }

    private func model(_ context: Int) throws -> OneStep {
        let fields = ConfigTree.mapping(layers.map { [("layers", .integer($0))] } ?? [])
        let family = try ZooStandard.zoo().models.entry("llama")
        return OneStep(
            blueprint: try family.blueprint(preset: preset, fields: fields), text: text, context: context)
    }

    // MARK: As one process of many

    private func arguments(_ context: Int) -> [String] {
        ["--one-step", "\(context)", "--limit", "\(limit!)", "--preset", preset, "--text", text]
            + (layers.map { ["--layers", "\($0)"] } ?? [])
    }

    private func runAsRank(context: Int) throws {
        do {
            if let limit { try DataLimit(mebibytes: limit).apply() }
            let link = MPILinkProvider()
            // One thread: the stack of every other one would count, and a process that is alone would have more of them.
            let reading = try model(context).run(
                ranks: link.launch?.ranks ?? 1, over: link, threads: 1, budget: nil)
            if link.launch?.rank == 0, let reading { print(reading.line) }
        } catch {
            FileHandle.standardError.write(Data("error: \(error)\n".utf8))
            MPIProcess.exitAll(1)
        }
        MPIProcess.exit(0)
    }

    // MARK: Tables

    private func printLaw(_ rows: [Row]) {
        let two = rows.first { $0.ranks == 2 }?.context
        print("ranks  longest context  T(N)/T(2)  N/2    deviation  peak bytes/rank  state bytes/rank")
        for row in rows {
            var law = "          -      -          -"
            if let two, two > 0 {
                let (ratio, expected) = (Double(row.context) / Double(two), Double(row.ranks) / 2)
                law = String(format: "%11.3f  %5.1f  %+8.2f %%", ratio, expected, 100 * (ratio / expected - 1))
            }
            let reading = row.reading
            print(
                String(
                    format: "%5d  %15d%@  %15d  %16d", row.ranks, row.context, law, reading.peak, reading.state))
        }
    }

    /// Both tables say the same: what a rank holds does not shrink as ranks are added.
    private func printPaper(_ rows: [Row]) {
        func line(_ hardware: String, _ model: String, _ ranks: Int, _ tokens: Int) -> String {
            hardware.padding(toLength: 30, withPad: " ", startingAt: 0)
                + model.padding(toLength: 8, withPad: " ", startingAt: 0)
                + String(format: "%8d %16d %16d", ranks, tokens, tokens / ranks)
        }
        print("\nBeside the paper's table of longest contexts (Liu, Zaharia, Abbeel 2023, table 3):")
        print("hardware                      model    devices  longest context  tokens a device")
        for row in PaperTable.rows { print(line(row.hardware, row.model, row.devices, row.reported)) }
        for row in rows { print(line("\(limit!) MiB a process", preset, row.ranks, row.context)) }
    }
}
