// Letters: B batch, T new tokens, C cached tokens, Hkv key/value heads, D head size.

import TensorCore

/// Keys and values of the tokens seen so far, per layer, for generation.
public struct KeyValueCache: Sendable {
    private var layers: [(keys: Tensor, values: Tensor)?] = []
    /// Tokens of the last layer that appended; all layers hold as many between forward passes.
    public private(set) var count = 0

    public init() {}

    /// Appends keys and values [B, Hkv, T, D] of a layer and returns all of them, [B, Hkv, C + T, D] views of the cache.
    ///
    /// Room is doubled when it runs out, so appending costs what is appended.
    public mutating func append(_ k: Tensor, _ v: Tensor, layer: Int) -> (keys: Tensor, values: Tensor) {
        while layers.count <= layer { layers.append(nil) }
        let (start, end) = (layer == 0 ? count : count - k.shape[2], layer == 0 ? count + k.shape[2] : count)
        func grown(_ old: Tensor?) -> Tensor {
            if let old, old.shape[2] >= end { return old }
            var shape = k.shape
            shape[2] = max(end, 2 * (old?.shape[2] ?? 0))
            let new = Tensor.zeros(shape, k.dtype, on: k.device)
            if let old, start > 0 {
                new.device.copy(old.slice(axis: 2, 0..<start), into: new.slice(axis: 2, 0..<start))
            }
            return new
        }
        let (keys, values) = (grown(layers[layer]?.keys), grown(layers[layer]?.values))
        k.device.copy(k.detached, into: keys.slice(axis: 2, start..<end))
        v.device.copy(v.detached, into: values.slice(axis: 2, start..<end))
        layers[layer] = (keys, values)
        if layer == 0 { count = end }
        return (keys.slice(axis: 2, 0..<end), values.slice(axis: 2, 0..<end))
    }
}
