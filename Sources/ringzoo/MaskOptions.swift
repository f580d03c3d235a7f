import ArgumentParser
import AttentionCore
import TensorCore

/// The mask, as words on the command line.
struct MaskOptions: ParsableArguments {
    enum Kind: String, ExpressibleByArgument, CaseIterable { case full, causal }

    @Option(help: "full or causal.") var mask = Kind.full
    @Option(help: "BACK[,AHEAD]: key j is visible to query i when i - BACK <= j <= i + AHEAD (AHEAD 0 where left out).")
    var window: String?

    func attentionMask() throws -> AttentionMask {
        var result = AttentionMask(causal: mask == .causal)
        if let window {
            let numbers = window.split(separator: ",", omittingEmptySubsequences: false).map { Int($0) }
            guard (1...2).contains(numbers.count), let back = numbers[0], back >= 0,
                let ahead = numbers.count == 2 ? numbers[1] : 0,
                ahead >= 0
            else {
                throw RingZooError(
                    .usage, "--window is '\(window)'",
                    tried: ["BACK or BACK,AHEAD with whole numbers of at least 0 would work"])
            }
            result.window = .init(back: back, ahead: ahead)
        }
        return result
    }

    /// "causal window 128,0", for reports.
    var name: String { mask.rawValue + (window.map { " window \($0)" } ?? "") }
}
