import NeuralCore

// How tensor parallelism cuts the layers (Shoeybi et al. 2019, section 3): attention by heads, the feed-forward layer by its hidden
// values, embedding and head by tokens. What each rank has computed of a layer is summed once after attention and once after the
// feed-forward layer.
extension Llama {
    public func tensorAxis(of parameter: String) -> Int? {
        if parameter.hasSuffix("norm.weight") { return nil }
        return parameter.hasSuffix(".o_proj.weight") || parameter.hasSuffix(".down_proj.weight") ? 1 : 0
    }

    public func tensorParallelFaults(ranks: Int) -> [String] {
        [("heads", configuration.heads), ("keyHeads", configuration.keyHeads)].compactMap { name, count in
            count % ranks == 0
                ? nil
                : "its \(count) \(name) cannot be shared evenly by \(ranks) ranks; a divisor of \(count) would work"
        }
    }
}
