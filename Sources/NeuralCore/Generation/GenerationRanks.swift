import AttentionCore
import DistributedCore
import TensorCore

/// The ranks that continue a text together: each has a part of the keys and values, and of the model what the mesh gives it.
public struct GenerationRanks: Sendable {
    public let mesh: ProcessMesh
    /// For the prompt, whose tokens are cut over the ranks.
    public let prefill: any AttentionBackend
    /// For new tokens, which every rank has, against keys that are cut over the ranks.
    public let decode: any AttentionBackend
    /// How a piece of the prompt is cut.
    public let layout: SequenceLayout

    /// - Parameter prefill: over `mesh.sequence`, like `decode`.
    public init(
        _ mesh: ProcessMesh, prefill: any AttentionBackend, decode: any AttentionBackend,
        layout: SequenceLayout = .zigzag
    ) {
        self.mesh = mesh
        self.prefill = prefill
        self.decode = decode
        self.layout = layout
    }

    /// One rank, which keeps everything itself.
    public static func one(_ attention: any AttentionBackend, on device: any Device) -> GenerationRanks {
        GenerationRanks(
            ProcessMesh(sequence: InProcessRanks.alone(on: device)), prefill: attention, decode: attention)
    }
}
