import AttentionCore
import DistributedCore
import NeuralCore
import TensorCore

/// The attention of generation: one backend for the prompt and, on several ranks, another one for new tokens.
public struct GenerationChoice: Sendable {
    /// For the prompt.
    public let attention: AttentionChoice
    /// For new tokens; nil where one rank does both with the same backend.
    private let decoding: (any AttentionProvider)?

    /// - Parameter ranks: those that share the sequence.
    /// - Throws: what `AttentionChoice` throws; `.config` where several ranks have no backend for decoding.
    public init(backend: String, local: String, ranks: Int, in zoo: Zoo) throws {
        attention = try AttentionChoice(backend: backend, local: local, ranks: ranks, in: zoo)
        if ranks == 1 {
            decoding = nil
            return
        }
        let candidates = try zoo.attention.names.map { try zoo.attention.entry($0) }.filter(\.isForDecoding)
        decoding = candidates.first { $0.unavailableReasons().isEmpty }
        if decoding == nil {
            throw RingZooError(
                .config, "no attention backend for decoding on \(ranks) ranks can run here",
                tried: candidates.flatMap { $0.unavailableReasons() } + ["one rank would work"])
        }
    }

    /// What generation on one rank of these uses.
    public func makeRanks(over mesh: ProcessMesh, layout: SequenceLayout) throws -> GenerationRanks {
        let prefill = try attention.make(over: mesh.sequence)
        let decode = try decoding?.make(local: attention.local?.make(local: nil, over: nil), over: mesh.sequence)
        return GenerationRanks(mesh, prefill: prefill, decode: decode ?? prefill, layout: layout)
    }
}
