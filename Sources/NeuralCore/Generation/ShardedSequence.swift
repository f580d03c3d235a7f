// Letters: T tokens held here, M model width.

import AttentionCore
import DistributedCore
import TensorCore

/// A sequence on its way through a model, its keys and values spread over ranks: the prompt in pieces that are cut over the ranks, then
/// token by token. (Ranks are those of `mesh.sequence`; each may be a group of tensor ranks, which all hold and do the same but for the
/// heads.)
///
/// A piece of the prompt is cut by the layout; each rank runs the model on its part, whose queries meet the keys of all ranks, and keeps
/// the keys and values of its part. A new token goes through the model on every rank, and the rank that keeps fewest appends its keys
/// and values. So a rank keeps 1/N of the sequence, to within two tokens for each piece of the prompt, wherever the borders fall.
///
/// All ranks make the same calls with the same tokens. Beside the attention's, and those by which the mesh spreads the model, there are
/// no messages.
public struct ShardedSequence<Model: LanguageModel> {
    public let model: Model
    public let ranks: GenerationRanks
    public let precision: Precision
    /// Tokens read so far.
    public private(set) var count = 0
    /// How many of them each rank keeps: the same numbers on every rank.
    public private(set) var held: [Int]
    /// The rank that has the state of the prompt's last token, and so can say what comes next. (New tokens' states all ranks have; it
    /// stays the same one.)
    public private(set) var speaker = 0
    private var cache: KeyValueCache?

    /// - Parameter room: tokens that this rank's cache has room for from the start; see `KeyValueCache`.
    public init(_ model: Model, over ranks: GenerationRanks, precision: Precision = .float32, room: Int = 0) {
        (self.model, self.ranks, self.precision) = (model, ranks, precision)
        held = [Int](repeating: 0, count: ranks.mesh.sequence.size)
        cache = KeyValueCache(room: room)
    }

    /// Global positions of the tokens whose keys and values this rank keeps.
    public var positionsHeld: Positions { cache!.positions }

    /// Reads the next piece of the prompt, cut over the ranks. A rank that gets no token takes part all the same.
    ///
    /// - Returns: states [1, T, M], the last of which is the piece's last token's, on rank `speaker`; nil on the others.
    /// - Throws: what the model and attention throw, and the device's failure.
    public mutating func prefill(_ piece: ArraySlice<Int32>) throws -> Tensor? {
        let size = ranks.mesh.sequence.size
        let shares = (0..<size).map { ranks.layout.positions(length: piece.count, rank: $0, size: size) }
        let own = shares[ranks.mesh.sequence.rank]
        let tokens = own.indices.map { piece[piece.startIndex + $0] }
        let states = try read(tokens, at: own.shifted(by: count), ranks.prefill)
        count += piece.count
        for rank in held.indices { held[rank] += shares[rank].count }
        // Every layout holds its tokens in rising order, so the last token is its rank's last.
        speaker = shares.firstIndex { $0.largest == piece.count - 1 } ?? 0
        return isSpeaker ? states : nil
    }

    /// Reads a token that every rank has. Returns and throws as `prefill` does.
    public mutating func decode(_ token: Int32) throws -> Tensor? {
        let keeper = held.firstIndex(of: held.min()!)!
        let kept = ranks.mesh.sequence.rank == keeper ? 0..<1 : 0..<0
        let states = try read([token], at: .contiguous(from: count, count: 1), ranks.decode, keeping: kept)
        count += 1
        held[keeper] += 1
        return isSpeaker ? states : nil
    }

    /// Logits [1, V] of the last of these states, which `prefill` or `decode` has returned; nil where they are. Every rank makes this call.
    public func lastLogits(of states: Tensor?) throws -> Tensor? {
        let last = states.map { $0.slice(axis: 1, $0.shape[1] - 1..<$0.shape[1]) }
        return try model.logits(of: last, ranks.mesh.sharding)?.reshaped([1, model.vocabularySize])
    }

    private var isSpeaker: Bool { ranks.mesh.sequence.rank == speaker }

    private mutating func read(
        _ tokens: [Int32], at positions: Positions, _ attention: any AttentionBackend, keeping kept: Range<Int>? = nil
    ) throws -> Tensor {
        let device = ranks.mesh.sequence.device
        var context = SequenceContext(
            positions: positions, attention: attention, sharding: ranks.mesh.sharding, precision: precision, on: device)
        context.keptHere = kept
        let states = try model.hidden(Tensor(tokens, [1, tokens.count], on: device), context, cache: &cache)
        try device.ledger.checkFailure()
        return states
    }
}
