import ArgumentParser

struct AttentionCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "attention", abstract: "Run or measure attention by itself.",
        subcommands: [AttentionRunCommand.self, AttentionBenchCommand.self])
}
