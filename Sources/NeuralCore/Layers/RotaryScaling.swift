// Letters: D head size (the rotated part), L a context length. i counts frequencies, 0 to D/2 - 1.

import Foundation
import TensorCore

/// How rotary frequencies are changed so that a model reaches beyond the length it was trained at, in the kinds and with the
/// formulas of Hugging Face's model configurations, evaluated in float64.
public enum RotaryScaling: Sendable, Hashable {
    /// f[i] = base^(-2i/D).
    case none
    /// Position interpolation: f[i] / factor (Chen et al. 2023).
    case linear(factor: Double)
    /// Dynamic NTK at a fixed length: the base becomes base (factor L / L0 - (factor - 1))^(D / (D - 2)) with L = max(length,
    /// L0), L0 the original length. Up to L0 nothing changes. A ring has one length, so that it is not followed token by token.
    case dynamicNTK(factor: Double, length: Int, originalLength: Int)
    case yarn(YaRN)
    case llama3(Llama3)

    /// YaRN (Peng et al. 2023, section 3.3): fast frequencies stay, slow ones are divided by the factor, with a ramp between;
    /// cosines and sines are scaled by the attention factor.
    public struct YaRN: Sendable, Hashable {
        public var factor: Double
        /// The length the model was trained at before it was extended.
        public var originalLength: Int
        /// A frequency that turns at least this often over the original length stays as it is.
        public var betaFast = 32.0
        /// A frequency that turns at most this often is divided by the whole factor.
        public var betaSlow = 1.0
        /// The scale of cosines and sines, when a configuration states it.
        public var attentionFactor: Double?
        /// When both are given (and not 0), the scale is s(mscale) / s(mscaleAllDimensions), s(a) = 0.1 a ln(factor) + 1.
        public var mscale: Double?
        public var mscaleAllDimensions: Double?
        /// Rounds the ends of the ramp outwards to whole indices.
        public var truncate = true

        public init(factor: Double, originalLength: Int) {
            self.factor = factor
            self.originalLength = originalLength
        }

        /// What cosines and sines are multiplied by.
        public var resolvedAttentionFactor: Double {
            if let attentionFactor { return attentionFactor }
            func scale(_ weight: Double) -> Double { factor <= 1 ? 1 : 0.1 * weight * log(factor) + 1 }
            if let mscale, let mscaleAllDimensions, mscale != 0, mscaleAllDimensions != 0 {
                return scale(mscale) / scale(mscaleAllDimensions)
            }
            return scale(1)
        }
    }

    /// The scaling of LLaMA 3.1: wavelengths beyond originalLength / lowFrequencyFactor are stretched by the factor, those below
    /// originalLength / highFrequencyFactor stay, and between the two the frequencies are blended.
    public struct Llama3: Sendable, Hashable {
        public var factor: Double
        public var lowFrequencyFactor: Double
        public var highFrequencyFactor: Double
        public var originalLength: Int

        public init(
            factor: Double = 8, lowFrequencyFactor: Double = 1, highFrequencyFactor: Double = 4,
            originalLength: Int = 8192
        ) {
            self.factor = factor
            self.lowFrequencyFactor = lowFrequencyFactor
            self.highFrequencyFactor = highFrequencyFactor
            self.originalLength = originalLength
        }
    }

    /// What cosines and sines are multiplied by: 1 but for YaRN.
    public var attentionFactor: Double {
        if case .yarn(let yarn) = self { yarn.resolvedAttentionFactor } else { 1 }
    }

    /// Angles per token: D/2 values.
    func inverseFrequencies(headSize: Int, base: Double) -> [Double] {
        let size = Double(headSize)
        func plain(_ base: Double) -> [Double] {
            (0..<headSize / 2).map { pow(base, -2 * Double($0) / size) }
        }
        switch self {
        case .none:
            return plain(base)
        case .linear(let factor):
            return plain(base).map { $0 / factor }
        case .dynamicNTK(let factor, let length, let originalLength):
            let stretch = factor * Double(max(length, originalLength)) / Double(originalLength) - (factor - 1)
            return plain(base * pow(stretch, size / (size - 2)))
        case .yarn(let yarn):
            // The index whose frequency makes so many turns over the original length.
            func index(turns: Double) -> Double {
                size * log(Double(yarn.originalLength) / (turns * 2 * .pi)) / (2 * log(base))
            }
            var low = index(turns: yarn.betaFast)
            var high = index(turns: yarn.betaSlow)
            if yarn.truncate { (low, high) = (low.rounded(.down), high.rounded(.up)) }
            (low, high) = (max(low, 0), min(high, size - 1))
            if low == high { high += 0.001 }  // no division by zero; the ramp is a step
            return plain(base).enumerated().map { i, f in
                let ramp = min(1, max(0, (Double(i) - low) / (high - low)))
                return f / yarn.factor * ramp + f * (1 - ramp)
            }
        case .llama3(let llama):
            let (low, high) = (llama.lowFrequencyFactor, llama.highFrequencyFactor)
            return plain(base).map { f in
                let turns = Double(llama.originalLength) * f / (2 * .pi)
                if turns < low { return f / llama.factor }
                if turns > high { return f }
                let smooth = (turns - low) / (high - low)
                return (1 - smooth) * f / llama.factor + smooth * f
            }
        }
    }

    /// Checks what a configuration gave.
    func check(headSize: Int) throws {
        func require(_ holds: Bool, _ message: String, _ remedy: String) throws {
            if !holds { throw RingZooError(.config, "rope scaling: " + message, tried: [remedy]) }
        }
        func checkFactor(_ factor: Double) throws {
            try require(factor.isFinite && factor > 0, "factor \(factor)", "a factor above 0, usually 2 to 64")
        }
        func checkLength(_ length: Int) throws {
            try require(length > 0, "an original length of \(length)", "original_max_position_embeddings above 0")
        }
        switch self {
        case .none: break
        case .linear(let factor): try checkFactor(factor)
        case .dynamicNTK(let factor, _, let originalLength):
            try checkFactor(factor)
            try checkLength(originalLength)
            try require(factor >= 1, "factor \(factor) of dynamic NTK", "a factor of at least 1")
            try require(headSize > 2, "dynamic NTK with head size \(headSize)", "a head size above 2")
        case .yarn(let yarn):
            try checkFactor(yarn.factor)
            try checkLength(yarn.originalLength)
            try require(
                yarn.betaSlow > 0 && yarn.betaFast >= yarn.betaSlow,
                "beta_fast \(yarn.betaFast) and beta_slow \(yarn.betaSlow)", "beta_fast >= beta_slow > 0")
            try require(
                yarn.resolvedAttentionFactor.isFinite && yarn.resolvedAttentionFactor > 0,
                "attention factor \(yarn.resolvedAttentionFactor)", "an attention_factor above 0")
        case .llama3(let llama):
            try checkFactor(llama.factor)
            try checkLength(llama.originalLength)
            try require(
                llama.lowFrequencyFactor > 0 && llama.highFrequencyFactor > llama.lowFrequencyFactor,
                "low_freq_factor \(llama.lowFrequencyFactor) and high_freq_factor \(llama.highFrequencyFactor)",
                "high_freq_factor > low_freq_factor > 0")
        }
    }
}
