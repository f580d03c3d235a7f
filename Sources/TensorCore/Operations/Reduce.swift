extension Tensor {
    /// Axes counted from the front; traps when one is named twice.
    private func uniqueAxes(_ axes: [Int]?, _ operation: String) -> [Int] {
        guard let axes else { return Array(0..<rank) }
        let positive = axes.map { axis($0, operation) }
        if Set(positive).count != axes.count { shapeFault(operation, "axes \(axes) name one axis twice", self) }
        return positive
    }

    private func reduced(_ operation: Reduction, _ axes: [Int]) -> Tensor {
        var shape = self.shape
        for axis in axes { shape[axis] = 1 }
        let out = Tensor(uninitialised: shape, dtype, on: device)
        device.reduce(operation, detached, axes: axes, into: out)
        return out
    }

    private func dropping(_ axes: [Int], from reduced: Tensor) -> Tensor {
        reduced.reshaped((0..<rank).filter { !axes.contains($0) }.map { shape[$0] })
    }

    /// Sum over `axes` (all of them when nil). Float sums are kept in float64 and rounded once.
    public func sum(axes: [Int]? = nil, keepAxes: Bool = false) -> Tensor {
        let axes = uniqueAxes(axes, "sum")
        if axes.isEmpty { return self }
        let full = shape
        let kept = Tensor.record("sum", inputs: [self], output: reduced(.sum, axes)) { [$0.broadcast(to: full)] }
        return keepAxes ? kept : dropping(axes, from: kept)
    }

    /// Sum over `axes` (all of them when nil) divided by the number of elements; half precision is rounded once, at the end.
    public func mean(axes: [Int]? = nil, keepAxes: Bool = false) -> Tensor {
        if !dtype.isFloat { shapeFault("mean", "defined for floating-point tensors", self) }
        let count = uniqueAxes(axes, "mean").reduce(1) { $0 * shape[$1] }
        // The sum may be beyond float16, and 1 / count below it.
        let total = cast(to: dtype.accumulator).sum(axes: axes, keepAxes: keepAxes)
        return (total * (1 / Double(count))).cast(to: dtype)
    }

    /// Largest element over `axes`; where several are equal, they share the gradient.
    public func maximum(axes: [Int]? = nil, keepAxes: Bool = false) -> Tensor { extreme(.maximum, axes, keepAxes) }

    /// Smallest element over `axes`; where several are equal, they share the gradient.
    public func minimum(axes: [Int]? = nil, keepAxes: Bool = false) -> Tensor { extreme(.minimum, axes, keepAxes) }

    private func extreme(_ operation: Reduction, _ axes: [Int]?, _ keepAxes: Bool) -> Tensor {
        let axes = uniqueAxes(axes, "\(operation)")
        if axes.isEmpty { return self }
        let x = detached
        let y = x.reduced(operation, axes)
        let kept = Tensor.record("\(operation)", inputs: [self], output: y) { g in
            let hit = (x .== y).cast(to: x.dtype)
            return [g * hit / hit.sum(axes: axes, keepAxes: true)]
        }
        return keepAxes ? kept : dropping(axes, from: kept)
    }

    /// Sum of all squares as a host number, summed in float64 order; not differentiable.
    public func sumOfSquares() -> Double {
        Tensor.refuseTracked("sumOfSquares", [self])
        // In the accumulator's type: a norm in half precision would be off by a percent, or infinite.
        return (dtype.isFloat ? detached.cast(to: dtype.accumulator) : detached)
            .reduced(.sumOfSquares, Array(0..<rank)).item
    }

    /// Index of the first largest element along the last axis, int64; not differentiable.
    public func argmax() -> Tensor {
        Tensor.refuseTracked("argmax", [self])
        if shape.last ?? 0 == 0 { shapeFault("argmax", "no elements to compare", self) }
        let out = Tensor(uninitialised: Array(shape.dropLast()), .int64, on: device)
        device.argmax(detached, into: out)
        return out
    }

    /// exp(x) / sum(exp(x)) along the last axis; a row of -inf gives zeros.
    public func softmax() -> Tensor {
        if rank == 0 { shapeFault("softmax", "at least one axis wanted", self) }
        let p = Tensor(uninitialised: shape, dtype, on: device)
        device.softmax(detached, into: p)
        // dx = p (g - sum(p g))
        return Tensor.record("softmax", inputs: [self], output: p) { g in
            let dx = Tensor(uninitialised: p.shape, p.dtype, on: p.device)
            p.device.softmaxPullback(p, g, into: dx)
            return [dx]
        }
    }
}
