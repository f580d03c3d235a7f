import ArgumentParser
import TensorCore

/// How ranks share a sequence, beside the layout.
struct CutOptions: ParsableArguments {
    @Option(help: "The ranks' parts of the sequence in relation to each other: 2,1,1; equal where left out.")
    var shares: String?
    @Option(help: "Ranks that share heads, for the mesh backend; its own choice where left out.") var headRanks: Int?

    /// One share for each rank; nil for equal ones.
    func sharesOfRanks(_ ranks: Int) throws -> [Int]? {
        guard let shares else { return nil }
        let numbers = shares.split(separator: ",", omittingEmptySubsequences: false).map { Int($0) ?? 0 }
        if numbers.count != ranks || numbers.contains(where: { $0 < 1 }) {
            throw RingZooError(
                .usage, "--shares is '\(shares)'",
                tried: ["\(ranks) whole number\(ranks == 1 ? "" : "s") of at least 1, one a rank, would work"])
        }
        return numbers
    }
}
