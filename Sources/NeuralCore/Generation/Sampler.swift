import Foundation
import TensorCore

/// Draws the next token from a model's logits.
///
/// The warpers are applied in the order and with the meaning they have in Hugging Face's transformers: temperature, top-k, top-p
/// (Holtzman et al. 2019, arXiv 1904.09751), min-p (Nguyen et al. 2024, arXiv 2407.01082). A draw is a function of (seed, position,
/// logits) alone: no state, so equal logits give equal text however the work is spread over threads.
public struct Sampler: Sendable, Hashable {
    /// Divides the logits; 0 takes the largest logit, the first one where several are equal, and draws nothing.
    public let temperature: Double
    /// Tokens that stay, largest first; those as likely as the last of them stay too. nil for all.
    public let topK: Int?
    /// The most likely tokens stay until their probabilities sum to this; 1 for all.
    public let topP: Double
    /// Tokens less likely than this share of the most likely one go; 0 for none.
    public let minP: Double
    public let seed: UInt64

    /// - Throws: `.usage` naming the number that makes no sense.
    public init(
        temperature: Double = 1, topK: Int? = nil, topP: Double = 1, minP: Double = 0, seed: UInt64 = 1
    ) throws {
        func fault(_ name: String, _ value: Any, _ works: String) -> RingZooError {
            RingZooError(.usage, "\(name) is \(value)", tried: ["\(works) would work"])
        }
        if !(temperature >= 0 && temperature.isFinite) {
            throw fault("temperature", temperature, "0 (always the most likely token) or any number above")
        }
        if let topK, topK < 1 { throw fault("top-k", topK, "at least 1, or none at all for every token,") }
        if !(topP > 0 && topP <= 1) { throw fault("top-p", topP, "above 0 and at most 1") }
        if !(minP >= 0 && minP <= 1) { throw fault("min-p", minP, "0 to 1") }
        self.temperature = temperature
        self.topK = topK
        self.topP = topP
        self.minP = minP
        self.seed = seed
    }

    /// The token for one position, from the logits [V] that predict it.
    ///
    /// - Parameter position: the place of the new token in its sequence.
    /// - Throws: `.failed` naming position and token for a NaN or an infinite logit, and where every logit is -inf (one alone says
    ///   that a token cannot be).
    public func sample(_ logits: [Double], position: Int) throws -> Int32 {
        if temperature == 0 {
            let largest = try largestLogit(logits, position)
            return Int32(logits.firstIndex(of: largest)!)
        }
        let weights = try distribution(logits, position: position)
        let target = uniform(position) * weights.reduce(0, +)
        var sum = 0.0
        for (token, weight) in weights.enumerated() {
            sum += weight
            if sum > target { return Int32(token) }
        }
        // The product was rounded up to the sum.
        return Int32(weights.lastIndex { $0 > 0 }!)
    }

    /// The probability of each token [V] after all warpers, 0 for those that are out; at temperature 0 the one of the largest logit is 1.
    ///
    /// Throws as `sample` does.
    public func probabilities(_ logits: [Double], position: Int) throws -> [Double] {
        if temperature == 0 {
            let token = try sample(logits, position: position)
            return logits.indices.map { $0 == Int(token) ? 1 : 0 }
        }
        let weights = try distribution(logits, position: position)
        let sum = weights.reduce(0, +)
        return weights.map { $0 / sum }
    }

    /// Probabilities but for a common factor.
    private func distribution(_ logits: [Double], position: Int) throws -> [Double] {
        let largest = try largestLogit(logits, position)
        var weights = logits.map { exp(($0 - largest) / temperature) }
        if let topK, topK < weights.count {
            let last = weights.sorted(by: >)[topK - 1]
            for token in weights.indices where weights[token] < last { weights[token] = 0 }
        }
        if topP < 1 {
            let bound = topP * weights.reduce(0, +)
            var before = 0.0
            let order = weights.indices.sorted { (weights[$1], $0) < (weights[$0], $1) }
            for token in order {
                let weight = weights[token]
                // The token that reaches the bound is the last to stay, so one always does.
                if before >= bound { weights[token] = 0 }
                before += weight
            }
        }
        if minP > 0 {
            let bound = minP * weights.max()!
            for token in weights.indices where weights[token] < bound { weights[token] = 0 }
        }
        return weights
    }

    private func largestLogit(_ logits: [Double], _ position: Int) throws -> Double {
        var largest = -Double.infinity
        for (token, logit) in logits.enumerated() {
            if logit.isNaN || logit == .infinity {
                throw RingZooError(
                    .failed, "position \(position): the logit of token \(token) is \(logit)",
                    tried: ["the weights or the precision are at fault; 'ringzoo checkpoint verify' checks the file"])
            }
            largest = max(largest, logit)
        }
        if largest == -.infinity {
            throw RingZooError(.failed, "position \(position): all \(logits.count) logits are -inf")
        }
        return largest
    }

    /// [0, 1), 53 bits.
    private func uniform(_ position: Int) -> Double {
        Double(RandomKey(seed: seed).derived("sample").derived(position).value >> 11) * 0x1p-53
    }
}
