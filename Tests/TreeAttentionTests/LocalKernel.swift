import AttentionCore
import BLASAttention
import CPUAttention
import DistributedCore
import TreeAttention

/// The backends that compute inside a rank.
enum LocalKernel: String, CaseIterable, Sendable {
    case cpu, blas

    /// Tree attention with this kernel over the ranks of a communicator.
    func tree(_ communicator: any Communicator) -> any AttentionBackend {
        switch self {
        case .cpu: TreeAttention(CPUAttention(), over: communicator)
        case .blas: TreeAttention(BLASAttention(), over: communicator)
        }
    }
}
