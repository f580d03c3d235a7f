// Letters: B batch, T new tokens, C cached tokens, Hkv key/value heads, D head size.

import AttentionCore
import TensorCore

/// Keys and values of the tokens seen so far, per layer, for generation: of all of them, or of those that this rank keeps.
///
/// It knows where its tokens stand in the sequence, so they may be any, in any order.
public struct KeyValueCache: Sendable {
    private struct Layer {
        var keys = Columns()
        var values = Columns()
        var positions = Positions(runs: [])
    }
    private var layers: [Layer] = []
    private let room: Int

    /// - Parameter room: tokens there is room for from the start. Room is doubled when it runs out, so appending costs what is
    ///   appended; who knows the number in advance does not pay for what stays empty.
    public init(room: Int = 0) { self.room = room }

    /// Global positions of the tokens held, as they lie; all layers hold the same between forward passes.
    public var positions: Positions { layers.first?.positions ?? Positions(runs: []) }

    /// Appends those of a layer's keys and values [B, Hkv, T, D] that `context` keeps here, and returns all there are: [B, Hkv, C, D] views
    /// of the cache, and their positions.
    public mutating func append(
        _ k: Tensor, _ v: Tensor, layer: Int, _ context: SequenceContext
    ) -> (keys: Tensor, values: Tensor, positions: Positions) {
        while layers.count <= layer { layers.append(Layer()) }
        let rows = context.keptHere ?? 0..<k.shape[2]
        let held = layers[layer].positions.count
        layers[layer].positions.append(context.positions.rows(rows))
        return (
            layers[layer].keys.append(k.slice(axis: 2, rows), after: held, room: room),
            layers[layer].values.append(v.slice(axis: 2, rows), after: held, room: room), layers[layer].positions
        )
    }
}

/// Tokens along axis 2 of a tensor that has room for more.
private struct Columns {
    private var tensor: Tensor?

    /// Puts `new` after the first `count` columns and returns all that are used.
    mutating func append(_ new: Tensor, after count: Int, room: Int) -> Tensor {
        let end = count + new.shape[2]
        if tensor.map({ $0.shape[2] < end }) ?? true {
            var shape = new.shape
            shape[2] = max(end, room, 2 * count)
            let larger = Tensor(uninitialised: shape, new.dtype, on: new.device)
            if let tensor, count > 0 {
                new.device.copy(tensor.slice(axis: 2, 0..<count), into: larger.slice(axis: 2, 0..<count))
            }
            tensor = larger
        } else {
            // A copy of the cache goes its own way.
            tensor!.makeUnique()
        }
        if end > count { new.device.copy(new.detached, into: tensor!.slice(axis: 2, count..<end)) }
        return tensor!.slice(axis: 2, 0..<end)
    }
}
