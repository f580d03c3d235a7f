import AttentionCore
import BLASAttention
import CPUAttention
import DistributedCore
import RingAttention

/// The backends that compute inside a rank.
enum LocalKernel: String, CaseIterable, Sendable {
    case cpu, blas

    var backend: any AttentionBackend {
        switch self {
        case .cpu: CPUAttention()
        case .blas: BLASAttention()
        }
    }

    /// A ring of this kernel over the ranks of a communicator.
    func ring(_ communicator: any Communicator) -> any AttentionBackend {
        switch self {
        case .cpu: RingAttention(CPUAttention(), over: communicator)
        case .blas: RingAttention(BLASAttention(), over: communicator)
        }
    }
}
