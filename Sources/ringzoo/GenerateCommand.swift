import ArgumentParser
import DataCore
import DistributedCore
import Foundation
import NeuralCore
import TensorCore
import ZooCore
import ZooStandard

struct GenerateCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "generate", abstract: "Continue a text with a trained model.",
        discussion: """
            Example: ringzoo generate --checkpoint model.h5 --prompt "Once upon a time" --max-tokens 100 --temperature 0.7

            The new text, and nothing else, goes to standard output as it is made. The same seed, options and prompt give the \
            same text. With --json there is one object at the end: prompt, text, tokens, promptTokens, end (maximumCount, \
            endToken or stop), stop, seed, ranks, peakBytes and weightBytes (working memory and weights of rank 0), seconds, \
            tokensPerSecond.

            With --ranks N the text's keys and values are spread over N ranks: the prompt goes through the ring, and one message a \
            layer joins the ranks' attention for each new token. --tensor and --shard-parameters spread the model, so that it may be \
            larger than one rank's memory. Under mpirun ranks are processes; rank 0 reads the prompt and writes.
            """)

    @Option(help: "A checkpoint written by 'ringzoo train' or 'ringzoo checkpoint import'.") var checkpoint: String
    @Option(help: "The text to go on from.") var prompt: String?
    @Option(help: "A UTF-8 file with the text to go on from; - for standard input.") var promptFile: String?
    @Option(help: "New tokens at most.") var maxTokens = 200
    @Option(help: "Below 1 favours likely tokens; 0 always takes the most likely one.") var temperature = 0.8
    @Option(help: "Keep so many of the most likely tokens.") var topK: Int?
    @Option(help: "Keep the most likely tokens whose probabilities sum to this.") var topP = 1.0
    @Option(help: "Drop tokens less likely than this share of the most likely one.") var minP = 0.0
    @Option(help: "Another seed gives another text.") var seed: UInt64 = 1
    @Option(help: "End before this text. May be repeated.") var stop: [String] = []
    @Option(help: "NAME[:PATH] in place of the checkpoint's own: bytes, gpt2:FOLDER.") var tokenizer: String?
    @OptionGroup var sequence: SequenceRankOptions
    @Flag(help: "Print one JSON object and nothing else.") var json = false

    func run() throws {
        let zoo = try ZooStandard.zoo()
        let group = try sequence.group(in: zoo)
        // Standard input and the prompt's file are rank 0's.
        let text = group.holdsFirstRank ? try promptText() : ""
        let sampler = try Sampler(temperature: temperature, topK: topK, topP: topP, minP: minP, seed: seed)
        let stored = try StoredModel(checkpoint, in: zoo)
        let generation = try TextGeneration(
            TokenGeneration(sampler, maximumCount: maxTokens), tokenizer: tokenizer(of: stored, in: zoo), stops: stop)
        let mesh = sequence.mesh(of: group)
        try stored.blueprint.requireTensorRanks(mesh.tensor, askedBy: "--tensor")
        let choice = try GenerationChoice(
            backend: sequence.attention, local: sequence.attentionLocal, ranks: mesh.sequence, in: zoo)
        for note in group.notes + choice.attention.notes { Terminal.note(note) }

        let (json, layout, shardParameters) = (json, sequence.layout, sequence.shardParameters)
        let start = Date()
        let (outcome, peak, weights) = try group.run(
            as: RankIdentity(task: task), threads: Terminal.threads(), deadline: sequence.deadline
        ) { communicator, device in
            let mesh = try ProcessMesh(mesh, shardParameters: shardParameters, over: communicator)
            let model = try stored.makeModel(mesh.sharding, on: device)
            let ranks = try choice.makeRanks(over: mesh, layout: layout)
            let outcome = try generation.run(model, prompt: text, over: ranks) { piece in
                if !json && communicator.rank == 0 { Output.write(piece) }
            }
            return (outcome, device.ledger.peak(), device.ledger.live(.parameters))
        }
        if !group.holdsFirstRank { return }
        let seconds = Date().timeIntervalSince(start)
        try report(outcome, prompt: text, group, peakBytes: peak, weightBytes: weights, seconds: seconds)
        let length = outcome.promptCount + outcome.tokens.count
        if length > stored.blueprint.context {
            Terminal.note(
                "note: \(grouped(length)) tokens are more than the \(grouped(stored.blueprint.context)) the model was made for"
            )
        }
    }

    /// Everything but the prompt that the text depends on.
    private var task: String {
        """
        generate \(checkpoint)
        tokenizer \(tokenizer ?? "own")
        tokens \(maxTokens), stops \(stop)
        sampler \(temperature) \(topK ?? 0) \(topP) \(minP) \(seed)
        \(sequence.lines)
        """
    }

    private func promptText() throws -> String {
        switch (prompt, promptFile) {
        case (let text?, nil): return text
        case (nil, let path?):
            let data: Data
            do {
                if path == "-" {
                    data = try FileHandle.standardInput.readToEnd() ?? Data()
                } else if FileManager.default.fileExists(atPath: path) {
                    data = try Data(contentsOf: URL(fileURLWithPath: path))
                } else {
                    throw RingZooError(.missingInput, "--prompt-file \(path): no such file")
                }
            } catch let error as RingZooError {
                throw error
            } catch {
                throw RingZooError(.inputOutput, "--prompt-file \(path): it cannot be read", underlying: error)
            }
            guard let text = String(validating: data, as: UTF8.self) else {
                throw RingZooError(.corruptInput, "--prompt-file \(path): it is not UTF-8")
            }
            return text
        case (nil, nil):
            throw RingZooError(.usage, "there is no prompt", tried: ["--prompt TEXT or --prompt-file PATH would work"])
        case (_?, _?):
            throw RingZooError(.usage, "--prompt and --prompt-file are both there", tried: ["one of them would work"])
        }
    }

    private func tokenizer(of stored: StoredModel, in zoo: Zoo) throws -> any Tokenizer {
        if let tokenizer { return try zoo.tokenizer(named: tokenizer) }
        if let own = stored.tokenizer { return own }
        throw RingZooError(
            .usage, "\(checkpoint) holds no tokenizer",
            tried: ["--tokenizer NAME[:PATH] would work; known: \(zoo.tokenizers.names.joined(separator: ", "))"])
    }

    private func report(
        _ outcome: TextGeneration.Outcome, prompt: String, _ group: RankChoice, peakBytes: Int, weightBytes: Int,
        seconds: Double
    ) throws {
        let rate = Double(outcome.tokens.count) / max(seconds, 1e-9)
        if json {
            var object: [String: Any] = [
                "prompt": prompt, "text": outcome.text, "tokens": outcome.tokens.map(Int.init),
                "promptTokens": outcome.promptCount, "stop": NSNull(), "seed": seed, "ranks": group.ranks,
                "peakBytes": peakBytes, "weightBytes": weightBytes, "seconds": seconds, "tokensPerSecond": rate,
            ]
            switch outcome.end {
            case .maximumCount: object["end"] = "maximumCount"
            case .endToken: object["end"] = "endToken"
            case .stop(let text): (object["end"], object["stop"]) = ("stop", text)
            }
            return try Output.json(object)
        }
        // The text has no newline of its own to end with; a prompt of the shell should not follow on the same line. (mpirun gives its
        // processes a terminal, whatever its own output is.)
        if isatty(STDOUT_FILENO) == 1 && group.link.isInProcess { Output.write("\n") }
        Terminal.note(
            "\(grouped(outcome.promptCount)) tokens of prompt, \(grouped(outcome.tokens.count)) new ones in \(Terminal.duration(seconds)) (\(Terminal.number(rate, 1)) tokens/s)"
        )
    }
}
