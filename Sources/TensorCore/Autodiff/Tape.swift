import Synchronization

/// Where a tensor stands on a tape.
struct Tracked: Sendable {
    let tape: Tape
    let index: Int
}

/// A flat record of what was computed: one node per value, in the order of computation, which is topological.
///
/// Pullbacks capture detached tensors, so nothing on a tape points at a tape, and freeing a long chain never recurses. Nodes
/// are popped as the backward pass goes, which frees what they saved.
final class Tape: Sendable {
    /// Gradient of the result -> gradients of the inputs, nil where an input does not need one. May throw: a ring's backward
    /// can meet a lost peer.
    typealias Pullback = @Sendable (Tensor) throws -> [Tensor?]
    /// The same, adding to what has arrived for each input so far: nil where nothing has.
    typealias AddingPullback = @Sendable (Tensor, inout [Tensor?]) throws -> Void

    private enum Rule: Sendable {
        case leaf
        case shares(Pullback)
        case sums(AddingPullback)
    }

    private struct Node: Sendable {
        /// Index of each input on this tape; -1 for a constant.
        let inputs: [Int]
        let rule: Rule
    }

    private struct State: Sendable {
        var nodes: [Node] = []
        var failure: RingZooError?
    }

    private let state = Mutex(State())

    /// A copy of `tensor` that stands on this tape as something to differentiate by.
    func leaf(_ tensor: Tensor) -> Tensor { append(Node(inputs: [], rule: .leaf), tensor) }

    private func append(_ node: Node, _ value: Tensor) -> Tensor {
        let index = state.withLock { state in
            state.nodes.append(node)
            return state.nodes.count - 1
        }
        var value = value
        value.tracked = Tracked(tape: self, index: index)
        return value
    }

    func record(
        _ operation: () -> String, inputs: [Tensor], output: Tensor, pullback: @escaping Pullback
    ) -> Tensor {
        append(Node(inputs: indices(of: inputs, operation), rule: .shares(pullback)), output)
    }

    func record(
        _ operation: () -> String, inputs: [Tensor], output: Tensor, adding pullback: @escaping AddingPullback
    ) -> Tensor {
        append(Node(inputs: indices(of: inputs, operation), rule: .sums(pullback)), output)
    }

    private func indices(of inputs: [Tensor], _ operation: () -> String) -> [Int] {
        inputs.map { input -> Int in
            guard let tracked = input.tracked else { return -1 }
            if tracked.tape !== self {
                // Both calls fail: whichever the result belongs to, the other would return a gradient that lacks it.
                let message = "\(operation()): tensors of two different valueAndGradient calls meet; detach one of them"
                fail(message)
                tracked.tape.fail(message)
                return -1
            }
            return tracked.index
        }
    }

    /// Remembers a mistake that can only be reported where the caller asked for gradients.
    func fail(_ message: String) {
        state.withLock { if $0.failure == nil { $0.failure = RingZooError(.internalFailure, message) } }
    }

    /// Gradients of `output` (seeded with `seed`) with respect to the leaves, by their index. Consumes the tape.
    ///
    /// - Parameter parameters: how many of the first leaves are a model's parameters: their gradients are counted as such as soon as
    ///   they come up, not as working memory.
    func gradients(of output: Tensor, seed: Tensor, parameters: Int = 0) throws -> [Int: Tensor] {
        if let failure = state.withLock({ $0.failure }) { throw failure }
        guard let tracked = output.tracked, tracked.tape === self else { return [:] }
        var waiting: [Int: Tensor] = [tracked.index: seed]
        var leaves: [Int: Tensor] = [:]
        func add(_ share: Tensor, to input: Int) {
            waiting[input].add(share)
            if input < parameters { waiting[input]!.storage.reclassify(as: .gradients) }
        }
        while let (index, node) = state.withLock({ state in state.nodes.popLast().map { (state.nodes.count, $0) } }) {
            guard let gradient = waiting.removeValue(forKey: index) else { continue }
            switch node.rule {
            case .leaf:
                leaves[index] = gradient
            case .shares(let pullback):
                for (input, share) in zip(node.inputs, try pullback(gradient)) where input >= 0 {
                    if let share { add(share, to: input) }
                }
            case .sums(let pullback):
                var sums = node.inputs.map { waiting.removeValue(forKey: $0) }
                try pullback(gradient, &sums)
                for (input, sum) in zip(node.inputs, sums) where input >= 0 {
                    if let sum { add(sum, to: input) }
                }
            }
        }
        return leaves
    }
}

extension Tensor {
    /// The one entry point of every differentiable operation: `output` was computed from `inputs`, and `pullback` turns its
    /// gradient into theirs (nil where `isTracked` was false or there is none). Gradients must have the inputs' shapes and types.
    ///
    /// The pullback should capture detached tensors only. An output of which no input is tracked is returned as it is.
    public static func record(
        _ operation: @autoclosure () -> String, inputs: [Tensor], output: Tensor,
        pullback: @escaping @Sendable (Tensor) throws -> [Tensor?]
    ) -> Tensor {
        guard let tape = inputs.lazy.compactMap({ $0.tracked?.tape }).first else { return output }
        return tape.record(operation, inputs: inputs, output: output, pullback: pullback)
    }

    /// The same for a pullback that adds its shares itself, where that saves a pass over memory: `sums` holds what has arrived for each
    /// input from its other uses, nil where nothing has, and leaves with the input's share in it.
    public static func record(
        _ operation: @autoclosure () -> String, inputs: [Tensor], output: Tensor,
        adding pullback: @escaping @Sendable (_ gradient: Tensor, _ sums: inout [Tensor?]) throws -> Void
    ) -> Tensor {
        guard let tape = inputs.lazy.compactMap({ $0.tracked?.tape }).first else { return output }
        return tape.record(operation, inputs: inputs, output: output, adding: pullback)
    }

    /// For an operation without a derivative: if a tracked tensor enters it, the surrounding `valueAndGradient` throws instead of
    /// silently treating the result as a constant.
    static func refuseTracked(_ operation: String, _ inputs: [Tensor]) {
        inputs.lazy.compactMap { $0.tracked?.tape }.first?.fail(
            "\(operation) has no derivative, but a tensor that needs a gradient entered it; use .detached if that is meant"
        )
    }
}

extension Optional where Wrapped == Tensor {
    /// Adds a gradient to what is there, in place if nothing else holds that; where nothing is there yet, it is the sum.
    public mutating func add(_ share: Tensor) {
        guard var sum = take() else {
            self = share
            return
        }
        let isOurs = sum.isUnique()
        let total = isOurs ? sum : Tensor(uninitialised: share.shape, share.dtype, on: share.device)
        share.device.binary(.add, sum, share, into: total)
        self = total
    }
}
