import TensorCore

/// The online softmax of some query rows over the keys seen so far (Milakov and Gimelshein 2018), unnormalised and never
/// rounded to a smaller type: it is carried from block to block, so the error does not grow with their number.
///
/// The represented values are out = accumulator / sum and lse = reference + ln(sum). `reference` need not be the exact maximum;
/// it is -inf, with sum and accumulator 0, for a row that has seen no key.
public struct AttentionState: Sendable {
    /// [B, H, Tq]; an exponent every term was divided by, natural logarithm.
    public var reference: Tensor
    /// [B, H, Tq]; sum of exp(s - reference).
    public var sum: Tensor
    /// [B, H, Tq, D]; sum of exp(s - reference) v.
    public var accumulator: Tensor

    /// The state before any key.
    public init(_ problem: AttentionProblem, batch: Int, on device: any Device) {
        let rows = [batch, problem.heads, problem.queries.count]
        reference = .full(rows, -.infinity, problem.accumulator, on: device)
        sum = .zeros(rows, problem.accumulator, on: device)
        accumulator = .zeros(rows + [problem.headSize], problem.accumulator, on: device)
    }

    /// Joins the state of the same queries over other keys.
    public mutating func merge(_ other: AttentionState) {
        let joint = Tensor.maximum(reference, other.reference)
        let zero = Tensor.zeros([], joint.dtype, on: joint.device)
        // A side that saw nothing has reference -inf; its factor is 0, never exp(-inf + inf).
        func factor(_ side: AttentionState) -> Tensor {
            .select(zero < side.sum, (side.reference - joint).exponential, zero)
        }
        let (mine, theirs) = (factor(self), factor(other))
        sum = sum * mine + other.sum * theirs
        accumulator = accumulator * mine.expanded(axis: 3) + other.accumulator * theirs.expanded(axis: 3)
        reference = joint
    }

    /// Normalises: out = accumulator / (sum + exp(sink - reference)), lse likewise; consumes the accumulator in place.
    ///
    /// - Parameter sinks: [H], the learned logits that join the sum once, after all keys.
    public consuming func finish(_ sinks: Tensor? = nil) -> AttentionResult {
        let device = sum.device
        let zero = Tensor.zeros([], sum.dtype, on: device)
        let seen = zero < sum
        var lse = reference + sum.logarithm
        var total = sum
        if let sinks {
            let sink = sinks.detached.reshaped([1, sinks.elementCount, 1])
            // Beyond the range of exp the sink has all the weight: the quotient is the right 0.
            total = sum + (sink - reference).exponential
            let largest = Tensor.maximum(lse, sink)
            lse = largest + ((lse - largest).exponential + (sink - largest).exponential).logarithm
        }
        let scale = Tensor.select(seen, total.reciprocal, zero)
        accumulator.makeUnique()
        device.binary(.multiply, accumulator, scale.expanded(axis: 3).broadcast(to: accumulator.shape), into: accumulator)
        return AttentionResult(out: accumulator, lse: lse)
    }
}
