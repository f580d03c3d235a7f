import ArgumentParser
import TensorCore
import ZooCore
import ZooStandard

struct ModelsCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "models", abstract: "List the models and their presets.",
        discussion: "Example: ringzoo models")

    func run() throws {
        let zoo = try ZooStandard.zoo()
        for name in zoo.models.names {
            let family = try zoo.models.entry(name)
            print("\(name): \(family.summary)")
            for preset in family.presets {
                let blueprint = try family.blueprint(preset: preset, fields: .mapping([]))
                let count = blueprint.parameterCount
                print(
                    "  \(padded(preset, 12)) \(leading(grouped(count), 15)) parameters, \(byteText(4 * count)) in float32, vocabulary \(blueprint.vocabularySize), context \(blueprint.context)"
                )
            }
        }
    }
}

struct BackendsCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "backends", abstract: "List the attention backends, and why one cannot run here.",
        discussion: "Example: ringzoo backends")

    func run() throws {
        let zoo = try ZooStandard.zoo()
        for name in zoo.attention.names {
            let provider = try zoo.attention.entry(name)
            let reasons = provider.unavailableReasons()
            print("\(padded(name, 8)) \(reasons.isEmpty ? "ready" : "not here")  \(provider.summary)")
            for reason in reasons { print("         \(reason)") }
        }
        print(try AttentionChoice(backend: "auto", local: "auto", ranks: 1, in: zoo).notes.joined(separator: "\n"))
    }
}

func padded(_ text: String, _ width: Int) -> String {
    text + String(repeating: " ", count: max(0, width - text.count))
}

func leading(_ text: String, _ width: Int) -> String {
    String(repeating: " ", count: max(0, width - text.count)) + text
}
