import TensorCore

/// The online softmax of some query rows over the keys seen so far (Milakov and Gimelshein 2018), unnormalised and never
/// rounded to a smaller type: it is carried from block to block, so the error does not grow with their number.
///
/// With the terms scaled by powers of two, sum = sum_j exp(s_j) 2^-reference and accumulator = sum_j exp(s_j) 2^-reference v_j, so
/// out = accumulator / sum and lse = reference ln 2 + ln(sum). `reference` is a whole number near log2 of the largest term: rescaling
/// is exact however often it happens, and nothing is lost where logits are large. A row that has seen no key has reference
/// -inf, sum 0 and accumulator 0.
public struct AttentionState: Sendable {
    /// [B, H, Tq]; the power of two that every term was divided by.
    public var reference: Tensor
    /// [B, H, Tq]
    public var sum: Tensor
    /// [B, H, Tq, D]
    public var accumulator: Tensor

    /// The state before any key.
    public init(_ problem: AttentionProblem, batch: Int, on device: any Device) {
        let rows = [batch, problem.heads, problem.queries.count]
        reference = .full(rows, -.infinity, problem.accumulator, on: device)
        sum = .zeros(rows, problem.accumulator, on: device)
        accumulator = .zeros(rows + [problem.headSize], problem.accumulator, on: device)
    }

    /// A state that was computed elsewhere.
    public init(reference: Tensor, sum: Tensor, accumulator: Tensor) {
        (self.reference, self.sum, self.accumulator) = (reference, sum, accumulator)
    }

    /// Joins the state of some heads of the same queries over other keys.
    public mutating func merge(_ other: AttentionState, heads: Range<Int>) {
        var part = AttentionState(
            reference: reference.slice(axis: 1, heads), sum: sum.slice(axis: 1, heads),
            accumulator: accumulator.slice(axis: 1, heads))
        part.merge(other)
        reference.write(part.reference, heads: heads)
        sum.write(part.sum, heads: heads)
        accumulator.write(part.accumulator, heads: heads)
    }

    /// Joins the state of the same queries over other keys.
    public mutating func merge(_ other: AttentionState) {
        let joint = Tensor.maximum(reference, other.reference)
        let zero = Tensor.zeros([], joint.dtype, on: joint.device)
        // A side that saw nothing has reference -inf; its factor is 0, never exp(-inf + inf).
        func factor(_ side: AttentionState) -> Tensor {
            .select(zero < side.sum, ((side.reference - joint) * ln2).exponential, zero)
        }
        let (mine, theirs) = (factor(self), factor(other))
        sum = sum * mine + other.sum * theirs
        accumulator = accumulator * mine.expanded(axis: 3) + other.accumulator * theirs.expanded(axis: 3)
        reference = joint
    }

    /// Normalises: out = accumulator / (sum + exp(sink) 2^-reference), lse likewise; consumes the accumulator in place.
    ///
    /// - Parameter sinks: [H], the learned logits that join the sum once, after all keys.
    public consuming func finish(_ sinks: Tensor? = nil) -> AttentionResult {
        let lse = Tensor(uninitialised: sum.shape, .float64, on: sum.device)
        accumulator.makeUnique()
        sum.device.finishSoftmax(
            reference: reference, sum: sum, sinks: sinks?.detached, values: accumulator, lse: lse)
        return AttentionResult(out: accumulator, lse: lse)
    }
}

private let ln2 = 0.693147180559945309417

extension Tensor {
    /// Replaces the part of these heads, axis 1, in place.
    fileprivate mutating func write(_ part: Tensor, heads: Range<Int>) {
        makeUnique()
        device.copy(part, into: slice(axis: 1, heads))
    }
}
