import AttentionCore
import TensorCore

/// What travels: keys, values and everything about them that a mask asks for, in one message.
public struct KeyBlock: Sendable {
    public var k, v: Tensor
    public var positions: Positions
    public var documents: Tensor?

    public init(k: Tensor, v: Tensor, _ problem: AttentionProblem) {
        (self.k, self.v, positions, documents) = (k, v, problem.keys, problem.mask.documents?.keys)
    }

    public init(_ message: Message) {
        (k, v) = (message.tensors[0], message.tensors[1])
        documents = message.tensors.count > 2 ? message.tensors[2] : nil
        positions = Positions.list(message.integers)[0]
    }

    public var message: Message {
        Message([k, v] + (documents.map { [$0] } ?? []), integers: Positions.integers([positions]))
    }
}

extension AttentionProblem {
    /// True when the mask shows none of these keys to any of these queries: the hop costs no computation.
    public var isRuledOut: Bool { mask.rulesOut(queries: queries, keys: keys) }
}
