import TensorCore

/// Sums the gradients of several micro-batches in place: beyond the sum there is never more than the gradient being added, and
/// that one is freed leaf by leaf.
public struct GradientAccumulation<M: Module>: Sendable {
    private var sum: M?
    /// Gradients added since the last `take`.
    public private(set) var count = 0

    public init() {}

    /// Adds a gradient, which the caller should give away: `add(consume gradient)`.
    public mutating func add(_ gradient: consuming M) {
        count += 1
        if sum == nil {
            sum = consume gradient
            return
        }
        var leaves = GradientLeaves(gradient)
        var index = 0
        sum!.forEachParameter { name, total in
            let g = leaves.take(index, name, for: total)
            total.makeUnique()
            total.device.binary(.add, total, g, into: total)
            index += 1
        }
    }

    /// Hands the sum out and starts again; nil when nothing was added.
    public mutating func take() -> M? {
        defer { count = 0 }
        return sum.take()
    }
}
