import Foundation
import TensorCore

/// The learning rate as a pure function of the step: a linear warm-up, then a decay to a final rate.
public struct Schedule: Sendable, Hashable {
    /// What follows the warm-up.
    public enum Decay: String, Sendable, Hashable, CaseIterable, Codable {
        case constant, linear, cosine
    }

    public var decay: Decay
    /// The highest rate, reached when the warm-up is over.
    public var rate: Double
    /// The rate from step `steps` on; a constant schedule does not use it.
    public var finalRate: Double
    /// Steps of warm-up.
    public var warmup: Int
    /// Steps of the whole schedule. It does not change when a run ends early.
    public var steps: Int

    /// - Throws: `RingZooError` with code `config` for negative rates, steps or warm-up.
    public init(_ decay: Decay, rate: Double, finalRate: Double, warmup: Int, steps: Int) throws {
        if !(rate.isFinite && rate >= 0 && finalRate.isFinite && finalRate >= 0) {
            throw RingZooError(
                .config, "schedule: rate \(rate) and final rate \(finalRate)", tried: ["rates of 0 or more"])
        }
        if warmup < 0 || steps < 0 {
            throw RingZooError(
                .config, "schedule: \(warmup) steps of warm-up of \(steps) steps", tried: ["counts of 0 or more"])
        }
        self.decay = decay
        self.rate = rate
        self.finalRate = finalRate
        self.warmup = warmup
        self.steps = steps
    }

    /// The rate of the update number `step`, counted from 0.
    ///
    /// Warm-up: rate (step + 1) / (warmup + 1). Then with p from 0 at its end to 1 at `steps`: finalRate + c (rate - finalRate), c =
    /// 0.5 (1 + cos(pi p)) for cosine and 1 - p for linear. The formula of nanoGPT.
    public func rate(at step: Int) -> Double {
        if step < warmup { return rate * Double(step + 1) / Double(warmup + 1) }
        if decay == .constant { return rate }
        if step >= steps { return finalRate }
        let progress = Double(step - warmup) / Double(steps - warmup)
        let share = decay == .cosine ? 0.5 * (1 + cos(.pi * progress)) : 1 - progress
        return finalRate + share * (rate - finalRate)
    }
}
