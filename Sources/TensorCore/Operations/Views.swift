// Operations that move no element: views and their pullbacks, which are views again wherever possible.

extension Tensor {
    func view(_ shape: [Int], _ strides: [Int], _ offset: Int) -> Tensor {
        Tensor(storage: storage, dtype: dtype, shape: shape, strides: strides, offset: offset)
    }

    /// Negative axes count from the end; traps when there is no such axis.
    func axis(_ axis: Int, _ operation: String) -> Int {
        let positive = axis < 0 ? axis + rank : axis
        if positive < 0 || positive >= rank { shapeFault(operation, "there is no axis \(axis)", self) }
        return positive
    }

    /// The same elements in row-major order; a copy only where they are not already.
    public func contiguous() -> Tensor {
        if isContiguous { return self }
        let out = Tensor(uninitialised: shape, dtype, on: device)
        device.copy(detached, into: out)
        return Tensor.record("contiguous", inputs: [self], output: out) { [$0] }
    }

    /// The same elements with another shape; one extent may be -1. A copy where strides do not allow a view.
    public func reshaped(_ newShape: [Int]) -> Tensor {
        var newShape = newShape
        if let free = newShape.firstIndex(of: -1) {
            let known = newShape.reduce(1) { $1 == -1 ? $0 : $0 * $1 }
            newShape[free] = known == 0 ? 0 : elementCount / known
        }
        if newShape.reduce(1, *) != elementCount { shapeFault("reshaped", "cannot take shape \(newShape)", self) }
        if newShape == shape { return self }
        let source = detached
        let out: Tensor
        if let strides = source.viewStrides(newShape) {
            out = source.view(newShape, strides, offset)
        } else {
            let copy = source.contiguous()
            out = copy.view(newShape, contiguousStrides(newShape), copy.offset)
        }
        let old = shape
        return Tensor.record("reshaped", inputs: [self], output: out) { [$0.reshaped(old)] }
    }

    /// Strides that show the elements in `newShape` without a copy, if there are any.
    private func viewStrides(_ newShape: [Int]) -> [Int]? {
        if elementCount == 0 || isContiguous { return contiguousStrides(newShape) }
        var result = [Int](repeating: 1, count: newShape.count)
        var target = newShape.count - 1
        var axis = rank - 1
        while axis >= 0 {
            // Join old axes that lie behind one another.
            var extent = shape[axis]
            let inner = strides[axis]
            while axis > 0 && (shape[axis - 1] == 1 || extent == 1 || strides[axis - 1] == inner * extent) {
                if extent == 1 { return nil }
                axis -= 1
                extent *= shape[axis]
            }
            axis -= 1
            // Cut the joined run into new axes.
            var running = inner
            while target >= 0 && (extent > 1 || newShape[target] == 1) {
                if extent % newShape[target] != 0 { return nil }
                result[target] = running
                running *= newShape[target]
                extent /= newShape[target]
                target -= 1
            }
            if extent != 1 { return nil }
        }
        while target >= 0 {
            if newShape[target] != 1 { return nil }
            result[target] = 1
            target -= 1
        }
        return result
    }

    /// All elements along one axis.
    public func flattened() -> Tensor { reshaped([elementCount]) }

    /// Axis `i` of the result is axis `order[i]` of this tensor.
    public func permuted(_ order: [Int]) -> Tensor {
        if order.sorted() != Array(0..<rank) { shapeFault("permuted", "\(order) is not an order of the axes", self) }
        let out = detached.view(order.map { shape[$0] }, order.map { strides[$0] }, offset)
        var inverse = order
        for (i, axis) in order.enumerated() { inverse[axis] = i }
        return Tensor.record("permuted", inputs: [self], output: out) { [inverse] in [$0.permuted(inverse)] }
    }

    /// Swaps two axes.
    public func transposed(_ first: Int = -2, _ second: Int = -1) -> Tensor {
        var order = Array(0..<rank)
        order.swapAt(axis(first, "transposed"), axis(second, "transposed"))
        return permuted(order)
    }

    /// Repeats extents of 1, and adds leading axes, without a copy.
    public func broadcast(to newShape: [Int]) -> Tensor {
        if newShape == shape { return self }
        let extra = newShape.count - rank
        if extra < 0 { shapeFault("broadcast", "cannot take shape \(newShape)", self) }
        var newStrides = [Int](repeating: 0, count: newShape.count)
        for axis in 0..<rank {
            if shape[axis] == newShape[axis + extra] {
                newStrides[axis + extra] = strides[axis]
            } else if shape[axis] != 1 {
                shapeFault("broadcast", "cannot take shape \(newShape)", self)
            }
        }
        let out = detached.view(newShape, newStrides, offset)
        let old = shape
        return Tensor.record("broadcast", inputs: [self], output: out) { [$0.summed(to: old)] }
    }

    /// The inverse of `broadcast`: sums over the axes along which `small` would be repeated.
    func summed(to small: [Int]) -> Tensor {
        if shape == small { return self }
        let extra = rank - small.count
        let axes = (0..<rank).filter { $0 < extra || (small[$0 - extra] == 1 && shape[$0] != 1) }
        return (axes.isEmpty ? self : sum(axes: axes, keepAxes: true)).reshaped(small)
    }

    /// A new axis of extent 1.
    public func expanded(axis: Int) -> Tensor {
        var newShape = shape
        newShape.insert(1, at: axis < 0 ? axis + rank + 1 : axis)
        return reshaped(newShape)
    }

    /// Elements `range` along `axis`, a view. The pullback writes into a tensor of zeros.
    public func slice(axis: Int, _ range: Range<Int>) -> Tensor {
        let axis = self.axis(axis, "slice")
        if range.lowerBound < 0 || range.upperBound > shape[axis] {
            shapeFault("slice", "\(range) does not lie in axis \(axis)", self)
        }
        if range == 0..<shape[axis] { return self }
        let out = detached.sliceView(axis, range)
        let old = shape
        return Tensor.record("slice", inputs: [self], output: out) { gradient in
            let full = Tensor.zeros(old, gradient.dtype, on: gradient.device)
            gradient.device.copy(gradient, into: full.sliceView(axis, range))
            return [full]
        }
    }

    private func sliceView(_ axis: Int, _ range: Range<Int>) -> Tensor {
        var newShape = shape
        newShape[axis] = range.count
        return view(newShape, strides, offset + range.lowerBound * strides[axis])
    }

    public func prefix(_ count: Int) -> Tensor { slice(axis: 0, 0..<min(count, shape[0])) }

    /// Pieces of the given extents along `axis`, which they must fill.
    public func split(axis: Int, _ extents: [Int]) -> [Tensor] {
        let axis = self.axis(axis, "split")
        if extents.reduce(0, +) != shape[axis] { shapeFault("split", "\(extents) do not fill axis \(axis)", self) }
        var start = 0
        return extents.map { extent in
            defer { start += extent }
            return slice(axis: axis, start..<start + extent)
        }
    }

    /// Joins tensors of equal shape but for `axis`.
    public static func concatenate(_ tensors: [Tensor], axis: Int) -> Tensor {
        guard let first = tensors.first else { fatalError("concatenate: no tensors") }
        let axis = first.axis(axis, "concatenate")
        if tensors.count == 1 { return first }
        var shape = first.shape
        shape[axis] = 0
        for tensor in tensors {
            var other = tensor.shape
            if other.count == shape.count { other[axis] = 0 }
            if other != shape.enumerated().map({ $0.offset == axis ? 0 : $0.element }) || tensor.dtype != first.dtype {
                shapeFault("concatenate", "shapes or types differ beyond axis \(axis)", first, tensor)
            }
            shape[axis] += tensor.shape[axis]
        }
        let out = Tensor(uninitialised: shape, first.dtype, on: first.device)
        var start = 0
        let ranges = tensors.map { tensor -> Range<Int> in
            defer { start += tensor.shape[axis] }
            return start..<start + tensor.shape[axis]
        }
        for (tensor, range) in zip(tensors, ranges) where !range.isEmpty {
            first.device.copy(tensor.detached, into: out.sliceView(axis, range))
        }
        return record("concatenate", inputs: tensors, output: out) { gradient in
            ranges.map { gradient.slice(axis: axis, $0) }
        }
    }
}
