import TensorCore

/// A backend that stands in for the one that does the computing (below a ring, not around it), to tell someone about its calls.
public protocol AttentionStandIn: AttentionBackend {
    associatedtype Base: AttentionBackend
    var base: Base { get }
}

extension AttentionStandIn {
    public var name: String { base.name }

    public func unsupportedReasons(_ problem: AttentionProblem) -> [String] { base.unsupportedReasons(problem) }
}

extension AttentionProblem {
    /// Pairs of query and key that the mask shows, over the rows of the batch.
    public func visiblePairs(batch: Int) -> Int { mask.visiblePairs(queries: queries, keys: keys, batch: batch) }

    /// Floating-point operations of so many matrix products over the visible pairs of all heads, 2 D a pair, head and product: forward has
    /// 2 products (4 D), backward 5 (10 D).
    public func flops(products: Int, batch: Int) -> Double {
        2 * Double(products * headSize * heads) * Double(visiblePairs(batch: batch))
    }
}
