import AttentionCore
import BLASAttention
import CPUAttention
import DistributedCore
import Foundation
import TreeAttention

/// The backends that compute inside a rank.
enum LocalKernel: String, CaseIterable, Sendable {
    case cpu, blas

    var backend: any AttentionBackend {
        switch self {
        case .cpu: CPUAttention()
        case .blas: BLASAttention()
        }
    }

    /// Tree attention with this kernel over the ranks of a communicator.
    func tree(_ communicator: any Communicator) -> any AttentionBackend {
        switch self {
        case .cpu: TreeAttention(CPUAttention(), over: communicator)
        case .blas: TreeAttention(BLASAttention(), over: communicator)
        }
    }
}

/// `make test` runs the small scale, `make test-all` (RINGZOO_TEST_ALL) the full one.
enum TestScale {
    static let full = ProcessInfo.processInfo.environment["RINGZOO_TEST_ALL"] != nil
    static let sizes = [1, 2, 3, 4, 5, 7, 8] + (full ? [16] : [])
}
