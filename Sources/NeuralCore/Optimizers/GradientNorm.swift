import TensorCore

extension Module {
    /// The root of the sum of all squared elements, for clipping a gradient and for the log.
    ///
    /// Leaves are summed in the order of `visit`, each in float64 and rounded once to its own type, so that equal gradients give
    /// equal bits. Reads one number per leaf on the host.
    public var globalNorm: Double {
        parameters.reduce(0) { $0 + $1.tensor.sumOfSquares() }.squareRoot()
    }
}

/// What to multiply a gradient by so that its norm is at most `limit`: min(1, limit / (norm + 1e-6)), as PyTorch clips.
///
/// Pass it to an optimizer as the gradient scale, so that gradients are not written for it. A nil limit never clips.
public func clippingScale(norm: Double, limit: Double?) -> Double {
    guard let limit else { return 1 }
    return min(1, limit / (norm + 1e-6))
}
