import ArgumentParser

@main
struct Ringzoo: ParsableCommand {
    static let configuration = CommandConfiguration(commandName: "ringzoo")
}
