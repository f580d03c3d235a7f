import DistributedCore
import TensorCore

// What a model asks the context about its parameters. On one rank each of these gives its argument back.
extension SequenceContext {
    /// A layer with all its parameters, for a moment: with sharded parameters they are collected from the ranks. They have travelled in the
    /// compute type, to which every layer casts its weights in any case (`Precision`).
    public func whole<Layer: Module>(_ layer: Layer) throws -> Layer {
        try sharding.gathered(layer, sentAs: precision.compute)
    }

    /// The input of layers that tensor parallelism cuts.
    public func copied(_ x: Tensor) -> Tensor { sharding.copied(x) }

    /// The output of layers that tensor parallelism cuts, of which `x` is this rank's share.
    public func reduced(_ x: Tensor) throws -> Tensor { try sharding.reduced(x) }

    /// Runs a model's blocks one after the other.
    ///
    /// With `memory.rematerialiseBlocks` only the input of each is kept for the backward pass, which computes the block again. With sharded
    /// parameters too, and a block's parameters are whole only while it computes; those of the next arrive meanwhile. With a cache there is
    /// no backward pass.
    public func through<Block: Module>(
        _ blocks: [Block], _ x: Tensor, cache: inout KeyValueCache?,
        _ body: @escaping @Sendable (Block, Tensor, inout KeyValueCache?) throws -> Tensor
    ) throws -> Tensor {
        if sharding.rows == nil && (!memory.rematerialiseBlocks || cache != nil) {
            return try blocks.reduce(x) { x, block in try body(block, x, &cache) }
        }
        let gathering = sharding.rows.map { BlockGathering(blocks, over: $0, sentAs: precision.compute) }
        if cache != nil {
            return try blocks.indices.reduce(x) { x, index in
                try body(gathering?.whole(index, blocks[index]) ?? blocks[index], x, &cache)
            }
        }
        return try blocks.enumerated().reduce(x) { x, element in
            let (index, block) = element
            return try rematerialise(block, x) { block, x in
                var none: KeyValueCache?
                return try body(gathering?.whole(index, block) ?? block, x, &none)
            }
        }
    }
}
