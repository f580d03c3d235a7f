import CTensorKernels

extension CPUDevice {
    public func fill(_ out: Tensor, with value: Double) {
        let span = recorder?.open("fill", moving: [out])
        defer { span?.close() }
        let loop = StridedLoop([out])
        let stride = loop.innerStrides[0]
        loop.run(on: pool) { count, p in rz_fill(out.dtype.kernelCode, count, p[0], stride, value) }
    }

    public func copy(_ x: Tensor, into out: Tensor) {
        let span = recorder?.open(x.dtype == out.dtype ? "copy" : "cast", moving: [x, out])
        defer { span?.close() }
        let loop = StridedLoop([out, x])
        let strides = loop.innerStrides
        loop.run(on: pool) { count, p in
            rz_convert(x.dtype.kernelCode, count, p[1], strides[1], out.dtype.kernelCode, p[0], strides[0])
        }
    }

    public func unary(_ operation: UnaryOperation, _ x: Tensor, into out: Tensor) {
        let span = recorder?.open("\(operation)", moving: [x, out])
        defer { span?.close() }
        let loop = StridedLoop([out, x])
        let strides = loop.innerStrides
        loop.run(on: pool) { count, p in
            if rz_unary(operation.rawValue, x.dtype.kernelCode, count, p[1], strides[1], p[0], strides[0]) == 0 {
                shapeFault("\(operation)", "not defined for this element type", x)
            }
        }
    }

    public func binary(_ operation: BinaryOperation, _ a: Tensor, _ b: Tensor, into out: Tensor) {
        let span = recorder?.open("\(operation)", moving: [a, b, out])
        defer { span?.close() }
        let loop = StridedLoop([out, a, b])
        let s = loop.innerStrides
        loop.run(on: pool) { count, p in
            if rz_binary(operation.rawValue, a.dtype.kernelCode, count, p[1], s[1], p[2], s[2], p[0], s[0]) == 0 {
                shapeFault("\(operation)", "not defined for this element type", a, b)
            }
        }
    }

    public func swiGLU(_ gate: Tensor, _ up: Tensor, into out: Tensor) {
        let span = recorder?.open("swiGLU", moving: [gate, up, out])
        defer { span?.close() }
        StridedLoop([out, gate, up]).run(on: pool) { count, p in
            rz_swiglu(gate.dtype.kernelCode, count, p[1], p[2], p[0])
        }
    }

    public func swiGLUPullback(_ gate: Tensor, _ up: Tensor, _ g: Tensor, dGate: Tensor, dUp: Tensor) {
        let span = recorder?.open("swiGLUPullback", moving: [gate, up, g, dGate, dUp])
        defer { span?.close() }
        StridedLoop([dGate, dUp, gate, up, g]).run(on: pool) { count, p in
            rz_swiglu_pullback(gate.dtype.kernelCode, count, p[2], p[3], p[4], p[0], p[1])
        }
    }

    public func compare(_ operation: Comparison, _ a: Tensor, _ b: Tensor, into out: Tensor) {
        let span = recorder?.open("\(operation)", moving: [a, b, out])
        defer { span?.close() }
        let loop = StridedLoop([out, a, b])
        let s = loop.innerStrides
        loop.run(on: pool) { count, p in
            let target = p[0].assumingMemoryBound(to: UInt8.self)
            _ = rz_compare(operation.rawValue, a.dtype.kernelCode, count, p[1], s[1], p[2], s[2], target, s[0])
        }
    }

    public func select(_ condition: Tensor, _ a: Tensor, _ b: Tensor, into out: Tensor) {
        let span = recorder?.open("select", moving: [condition, a, b, out])
        defer { span?.close() }
        let loop = StridedLoop([out, condition, a, b])
        let s = loop.innerStrides
        loop.run(on: pool) { count, p in
            rz_select(
                Int32(a.dtype.byteCount), count, p[1].assumingMemoryBound(to: UInt8.self), s[1], p[2], s[2], p[3], s[3],
                p[0], s[0])
        }
    }

    public func random(_ distribution: RandomDistribution, key: UInt64, rows: [UInt64], into out: Tensor) {
        let span = recorder?.open("random", moving: [out])
        defer { span?.close() }
        let columns = out.elementCount / rows.count
        let grain = 8192
        let pieces = max(1, (columns + grain - 1) / grain)
        let base = out.address.assumingMemoryBound(to: Float.self)
        pool.run(rows.count * pieces) { piece, _ in
            let row = piece / pieces
            let start = (piece % pieces) * grain
            let count = min(grain, columns - start)
            let target = base + row * columns + start
            switch distribution {
            case .uniform: rz_random_uniform(key, rows[row], Int64(start), Int64(count), target)
            case .normal: rz_random_normal(key, rows[row], Int64(start), Int64(count), target)
            }
        }
    }

    public func adamW(_ step: AdamWStep, _ leaves: [AdamWLeaf]) {
        let span = recorder?.open(
            "adamW", moving: leaves.flatMap { [$0.weight, $0.weight, $0.gradient, $0.m, $0.m, $0.v, $0.v] })
        defer { span?.close() }
        if step.step < 1 { fatalError("adamW: steps are counted from 1, not \(step.step)") }
        let correction1 = 1 - power(step.beta1, step.step)
        let correction2 = 1 - power(step.beta2, step.step)
        // All leaves in pieces of one length: the threads meet once at the end, and small leaves keep all of them busy.
        let grain = 16384
        var leaves = leaves
        var pieces: [(leaf: Int, start: Int)] = []
        for index in leaves.indices {
            checkOptimizer("adamW", leaves[index].weight, leaves[index].gradient, [leaves[index].m, leaves[index].v])
            leaves[index].gradient = leaves[index].gradient.contiguous()
            pieces += stride(from: 0, to: leaves[index].weight.elementCount, by: grain).map { (index, $0) }
        }
        pool.run(pieces.count) { piece, _ in
            let leaf = leaves[pieces[piece].leaf]
            let count = min(grain, leaf.weight.elementCount - pieces[piece].start)
            let offset = pieces[piece].start * leaf.weight.dtype.byteCount
            rz_adamw(
                leaf.weight.dtype.kernelCode, Int64(count), leaf.weight.address + offset,
                leaf.gradient.address + offset, leaf.m.address + offset, leaf.v.address + offset, step.rate, step.beta1,
                step.beta2, step.epsilon, leaf.weightDecay, correction1, correction2, step.gradientScale)
        }
    }

    public func sgd(
        rate: Double, momentum: Double, decay: Double, gradientScale: Double, weight: Tensor, gradient: Tensor,
        buffer: Tensor?
    ) {
        let span = recorder?.open("sgd", moving: [weight, weight, gradient] + (buffer.map { [$0, $0] } ?? []))
        defer { span?.close() }
        checkOptimizer("sgd", weight, gradient, buffer.map { [$0] } ?? [])
        let gradient = gradient.contiguous()
        let loop = StridedLoop([weight, gradient] + (buffer.map { [$0] } ?? []))
        loop.run(on: pool) { count, p in
            rz_sgd(
                weight.dtype.kernelCode, count, p[0], p[1], buffer == nil ? nil : p[2], rate, momentum, decay,
                gradientScale)
        }
    }
}

/// The kernels walk one run of memory in one type, float32 or float64.
private func checkOptimizer(_ operation: String, _ weight: Tensor, _ gradient: Tensor, _ state: [Tensor]) {
    for other in [gradient] + state where other.dtype != weight.dtype || other.shape != weight.shape {
        shapeFault(operation, "weight, gradient and state must have one shape and type", weight, other)
    }
    if weight.dtype != .float32 && weight.dtype != .float64 {
        shapeFault(operation, "float32 or float64 wanted; keep master weights in float32", weight)
    }
    for target in [weight] + state where !target.isContiguous {
        shapeFault(operation, "a strided view cannot be updated in place; call makeUnique", target)
    }
}

/// base^exponent by repeated squaring: the same bits everywhere, unlike a libm's pow.
private func power(_ base: Double, _ exponent: Int) -> Double {
    var result = 1.0
    var square = base
    var remaining = exponent
    while remaining > 0 {
        if remaining & 1 == 1 { result *= square }
        square *= square
        remaining >>= 1
    }
    return result
}
