// Elementwise operations with broadcasting; each pullback stands under its forward.

extension Tensor {
    /// The shape two operands broadcast to: extents must be equal or 1, aligned at the last axis.
    static func broadcastShape(_ operation: @autoclosure () -> String, _ a: Tensor, _ b: Tensor) -> [Int] {
        if a.shape == b.shape { return a.shape }
        let rank = max(a.rank, b.rank)
        return (0..<rank).map { axis in
            let x = axis - (rank - a.rank) < 0 ? 1 : a.shape[axis - (rank - a.rank)]
            let y = axis - (rank - b.rank) < 0 ? 1 : b.shape[axis - (rank - b.rank)]
            if x != y && x != 1 && y != 1 { shapeFault(operation(), "shapes do not broadcast", a, b) }
            return x == 1 ? y : x
        }
    }

    // Names are autoclosures: the text of an enum case is found by reflection, which would cost more than a small operation.
    private static func checkPair(_ operation: @autoclosure () -> String, _ a: Tensor, _ b: Tensor) {
        if a.dtype != b.dtype { shapeFault(operation(), "element types differ; cast one of them", a, b) }
        if a.device !== b.device {
            shapeFault(operation(), "tensors are on two devices, \(a.device.name) and \(b.device.name)", a, b)
        }
    }

    /// Runs a primitive without recording it.
    static func apply(_ operation: BinaryOperation, _ a: Tensor, _ b: Tensor) -> Tensor {
        checkPair("\(operation)", a, b)
        let shape = broadcastShape("\(operation)", a, b)
        let out = Tensor(uninitialised: shape, a.dtype, on: a.device)
        a.device.binary(operation, a.detached.broadcast(to: shape), b.detached.broadcast(to: shape), into: out)
        return out
    }

    static func apply(_ operation: UnaryOperation, _ x: Tensor) -> Tensor {
        let out = Tensor(uninitialised: x.shape, x.dtype, on: x.device)
        x.device.unary(operation, x.detached, into: out)
        return out
    }

    private static func recordPair(
        _ name: String, _ a: Tensor, _ b: Tensor, _ out: Tensor, _ da: @escaping @Sendable (Tensor) -> Tensor,
        _ db: @escaping @Sendable (Tensor) -> Tensor
    ) -> Tensor {
        let (needsA, needsB, shapeA, shapeB) = (a.isTracked, b.isTracked, a.shape, b.shape)
        return record(name, inputs: [a, b], output: out) { g in
            [needsA ? da(g).summed(to: shapeA) : nil, needsB ? db(g).summed(to: shapeB) : nil]
        }
    }

    public static func + (a: Tensor, b: Tensor) -> Tensor {
        recordPair("add", a, b, apply(.add, a, b), { $0 }, { $0 })
    }

    public static func - (a: Tensor, b: Tensor) -> Tensor {
        recordPair("subtract", a, b, apply(.subtract, a, b), { $0 }, { -$0 })
    }

    public static func * (a: Tensor, b: Tensor) -> Tensor {
        let (x, y) = (a.detached, b.detached)
        return recordPair("multiply", a, b, apply(.multiply, a, b), { $0 * y }, { $0 * x })
    }

    public static func / (a: Tensor, b: Tensor) -> Tensor {
        let (x, y) = (a.detached, b.detached)
        return recordPair("divide", a, b, apply(.divide, a, b), { $0 / y }, { -($0 * x / (y * y)) })
    }

    /// a^b; the gradient with respect to b is a^b ln a, defined for a > 0.
    public static func power(_ a: Tensor, _ b: Tensor) -> Tensor {
        let (x, y) = (a.detached, b.detached)
        let out = apply(.power, a, b)
        return recordPair(
            "power", a, b, out,
            { g in
                // Where b is 0 the function is constant, also at a = 0, where 0 * 0^-1 would not be a number.
                let zero = Tensor.zeros([], g.dtype, on: g.device)
                return select(y .!= zero, g * y * apply(.power, x, y - 1), zero)
            }, { $0 * out * apply(.logarithm, x) })
    }

    /// The larger of two; where they are equal, the gradient goes to the first.
    public static func maximum(_ a: Tensor, _ b: Tensor) -> Tensor {
        let (x, y) = (a.detached, b.detached)
        let zero = { @Sendable (g: Tensor) in Tensor.zeros([], g.dtype, on: g.device) }
        return recordPair(
            "maximum", a, b, apply(.maximum, a, b), { select(y <= x, $0, zero($0)) }, { select(x < y, $0, zero($0)) })
    }

    /// The smaller of two; where they are equal, the gradient goes to the first.
    public static func minimum(_ a: Tensor, _ b: Tensor) -> Tensor {
        let (x, y) = (a.detached, b.detached)
        let zero = { @Sendable (g: Tensor) in Tensor.zeros([], g.dtype, on: g.device) }
        return recordPair(
            "minimum", a, b, apply(.minimum, a, b), { select(x <= y, $0, zero($0)) }, { select(y < x, $0, zero($0)) })
    }

    public static func + (a: Tensor, b: Double) -> Tensor { a + .scalar(b, a.dtype, on: a.device) }
    public static func - (a: Tensor, b: Double) -> Tensor { a - .scalar(b, a.dtype, on: a.device) }
    public static func * (a: Tensor, b: Double) -> Tensor { a * .scalar(b, a.dtype, on: a.device) }
    public static func / (a: Tensor, b: Double) -> Tensor { a / .scalar(b, a.dtype, on: a.device) }
    public static func + (a: Double, b: Tensor) -> Tensor { .scalar(a, b.dtype, on: b.device) + b }
    public static func - (a: Double, b: Tensor) -> Tensor { .scalar(a, b.dtype, on: b.device) - b }
    public static func * (a: Double, b: Tensor) -> Tensor { .scalar(a, b.dtype, on: b.device) * b }
    public static func / (a: Double, b: Tensor) -> Tensor { .scalar(a, b.dtype, on: b.device) / b }

    // MARK: One operand

    private func map(
        _ operation: UnaryOperation, _ derivative: @escaping @Sendable (_ g: Tensor, _ x: Tensor, _ y: Tensor) -> Tensor
    ) -> Tensor {
        let x = detached
        let y = Tensor.apply(operation, x)
        return Tensor.record("\(operation)", inputs: [self], output: y) { g in [derivative(g, x, y)] }
    }

    public static prefix func - (x: Tensor) -> Tensor { x.map(.negate) { g, _, _ in -g } }

    public var absolute: Tensor { map(.absolute) { g, x, _ in g * Tensor.apply(.sign, x) } }
    public var squared: Tensor { map(.square) { g, x, _ in g * x * 2 } }
    public var squareRoot: Tensor { map(.squareRoot) { g, _, y in g * 0.5 / y } }
    public var reciprocalSquareRoot: Tensor { map(.reciprocalSquareRoot) { g, x, y in g * (-0.5) * y / x } }
    public var reciprocal: Tensor { map(.reciprocal) { g, _, y in -(g * y * y) } }
    public var exponential: Tensor { map(.exponential) { g, _, y in g * y } }
    public var logarithm: Tensor { map(.logarithm) { g, x, _ in g / x } }
    public var sine: Tensor { map(.sine) { g, x, _ in g * Tensor.apply(.cosine, x) } }
    public var cosine: Tensor { map(.cosine) { g, x, _ in -(g * Tensor.apply(.sine, x)) } }
    public var hyperbolicTangent: Tensor { map(.hyperbolicTangent) { g, _, y in g * (1 - y * y) } }
    public var errorFunction: Tensor {
        map(.errorFunction) { g, x, _ in g * (2 / Double.pi.squareRoot()) * Tensor.apply(.exponential, -(x * x)) }
    }
    public var sigmoid: Tensor { map(.sigmoid) { g, _, y in g * y * (1 - y) } }
    public var relu: Tensor { map(.relu) { g, x, _ in Tensor.select(0 < x, g, .zeros([], g.dtype, on: g.device)) } }
    /// x sigmoid(x) (Elfwing, Uchibe, Doya 2017).
    public var silu: Tensor { map(.silu) { g, x, _ in Tensor.apply(.siluPullback, x, g) } }
    /// x Phi(x) with the error function (Hendrycks and Gimpel 2016).
    public var gelu: Tensor { map(.gelu) { g, x, _ in Tensor.apply(.geluPullback, x, g) } }
    /// The same with the tanh approximation.
    public var geluTanh: Tensor { map(.geluTanh) { g, x, _ in Tensor.apply(.geluTanhPullback, x, g) } }

    // MARK: Comparison, selection, conversion

    private static func compare(_ operation: Comparison, _ a: Tensor, _ b: Tensor) -> Tensor {
        checkPair("\(operation)", a, b)
        let shape = broadcastShape("\(operation)", a, b)
        let out = Tensor(uninitialised: shape, .bool, on: a.device)
        a.device.compare(operation, a.detached.broadcast(to: shape), b.detached.broadcast(to: shape), into: out)
        return out
    }

    /// Elementwise comparisons give bool tensors, which are constants to a tape.
    public static func .== (a: Tensor, b: Tensor) -> Tensor { compare(.equal, a, b) }
    public static func .!= (a: Tensor, b: Tensor) -> Tensor { compare(.notEqual, a, b) }
    public static func < (a: Tensor, b: Tensor) -> Tensor { compare(.less, a, b) }
    public static func <= (a: Tensor, b: Tensor) -> Tensor { compare(.lessOrEqual, a, b) }
    static func < (a: Double, b: Tensor) -> Tensor { .scalar(a, b.dtype, on: b.device) < b }

    /// condition ? a : b, with broadcasting.
    public static func select(_ condition: Tensor, _ a: Tensor, _ b: Tensor) -> Tensor {
        checkPair("select", a, b)
        if condition.dtype != .bool { shapeFault("select", "the condition must be bool", condition) }
        let pair = broadcastShape("select", a, b)
        let shape = broadcastShape("select", condition, a.detached.broadcast(to: pair))
        let c = condition.detached.broadcast(to: shape)
        let out = Tensor(uninitialised: shape, a.dtype, on: a.device)
        a.device.select(c, a.detached.broadcast(to: shape), b.detached.broadcast(to: shape), into: out)
        let zero = { @Sendable (g: Tensor) in Tensor.zeros([], g.dtype, on: g.device) }
        return recordPair("select", a, b, out, { select(c, $0, zero($0)) }, { select(c, zero($0), $0) })
    }

    /// The same values in another element type, rounded to nearest; the gradient is cast back.
    public func cast(to newType: DType) -> Tensor {
        if newType == dtype { return self }
        let out = Tensor(uninitialised: shape, newType, on: device)
        device.copy(detached, into: out)
        if !newType.isFloat || !dtype.isFloat { return out }
        let old = dtype
        return Tensor.record("cast", inputs: [self], output: out) { [$0.cast(to: old)] }
    }
}

infix operator .== : ComparisonPrecedence
infix operator .!= : ComparisonPrecedence
