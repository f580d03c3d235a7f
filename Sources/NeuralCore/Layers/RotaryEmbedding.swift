// Letters: B batch, T tokens, D head size.

import Foundation
import TensorCore

/// Cosines and sines of the angles of some tokens, [B|1, T, D/2] each; made once a step and used by all layers.
public struct RotaryTables: Sendable {
    public let cosine: Tensor
    public let sine: Tensor

    public init(cosine: Tensor, sine: Tensor) {
        self.cosine = cosine
        self.sine = sine
    }
}

/// Rotary position embedding: which angle each pair of a head turns by at a position. It has no parameters.
///
/// Angles are float64 from the frequency to the cosine, which is rounded once: at position 10,000,000 they are right to the last
/// bit of float32 but for ties (an error below 3e-9 before the rounding), where float32 angles are off by half a radian.
public struct RotaryEmbedding: Sendable, Hashable {
    public let headSize: Int
    public let base: Double
    public let scaling: RotaryScaling
    /// Radians per token, D/2 values.
    public let inverseFrequencies: [Double]

    /// - Parameter base: theta; 10,000 in LLaMA 1 and 2, 500,000 in LLaMA 3.
    /// - Throws: `RingZooError` with code `config` for values that make no sense.
    public init(headSize: Int, base: Double = 10_000, scaling: RotaryScaling = .none) throws {
        if headSize < 2 || headSize % 2 != 0 {
            throw RingZooError(
                .config, "rope: head size \(headSize) has no halves to turn against each other",
                tried: ["an even head size"])
        }
        if !(base.isFinite && base > 1) {
            throw RingZooError(.config, "rope: base (rope_theta) \(base)", tried: ["a base above 1, usually 10000"])
        }
        try scaling.check(headSize: headSize)
        self.headSize = headSize
        self.base = base
        self.scaling = scaling
        inverseFrequencies = scaling.inverseFrequencies(headSize: headSize, base: base)
    }

    /// The tables of int32 positions [B|1, T], in `type`, which must be the accumulator type of what is turned: float32, or
    /// float64 for float64 (see `Precision.statistics`). Positions are read on the host. Wrong shapes trap.
    public func tables(positions: Tensor, _ type: DType = .float32) -> RotaryTables {
        guard positions.rank == 2, positions.dtype == .int32, type == .float32 || type == .float64 else {
            shapeFault("RotaryEmbedding.tables", "int32 positions [B|1, T] and float32 or float64 wanted", positions)
        }
        let shape = positions.shape + [headSize / 2]
        switch type {
        case .float64: return fill(positions.values(), shape, on: positions.device) { $0 }
        default: return fill(positions.values(), shape, on: positions.device) { Float($0) }
        }
    }

    private func fill<Scalar: TensorScalar>(
        _ positions: [Int32], _ shape: [Int], on device: any Device, _ round: (Double) -> Scalar
    ) -> RotaryTables {
        let factor = scaling.attentionFactor
        var cosines: [Scalar] = []
        var sines: [Scalar] = []
        cosines.reserveCapacity(positions.count * inverseFrequencies.count)
        sines.reserveCapacity(positions.count * inverseFrequencies.count)
        for position in positions {
            for frequency in inverseFrequencies {
                let angle = Double(position) * frequency
                cosines.append(round(cos(angle) * factor))
                sines.append(round(sin(angle) * factor))
            }
        }
        return RotaryTables(cosine: Tensor(cosines, shape, on: device), sine: Tensor(sines, shape, on: device))
    }
}
