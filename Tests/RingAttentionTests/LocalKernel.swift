import AttentionCore
import BLASAttention
import CPUAttention
import ConformanceKit
import DistributedCore
import GatherAttention
import MeshAttention
import RingAttention
import Testing
import UlyssesAttention

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
    func ring(_ communicator: any Communicator) -> any AttentionBackend { Strategy.ring.over(self, communicator) }
}

/// The ways to share one sequence among ranks. All keep the laws of these suites.
enum Strategy: String, CaseIterable, Sendable {
    case ring, gather, ulysses, mesh

    func over(_ local: LocalKernel, _ communicator: any Communicator) -> any AttentionBackend {
        switch local {
        case .cpu: over(CPUAttention(), communicator)
        case .blas: over(BLASAttention(), communicator)
        }
    }

    private func over(_ local: some AttentionBackend, _ communicator: any Communicator) -> any AttentionBackend {
        switch self {
        case .ring: RingAttention(local, over: communicator)
        case .gather: GatherAttention(local, over: communicator)
        case .ulysses: UlyssesAttention(local, over: communicator)
        case .mesh:
            MeshAttention(
                local, over: communicator, headRanks: nil, heads: UlyssesAttentionProvider(),
                ring: RingAttentionProvider())
        }
    }
}

/// A strategy over a local kernel. `make test` takes the ring over both, and the others over `cpu`: what they add to it is the way
/// tensors travel.
struct DistributedKernel: Sendable, CustomTestStringConvertible {
    var strategy: Strategy
    var local: LocalKernel
    var testDescription: String { "\(strategy) over \(local)" }

    static let all = Strategy.allCases.flatMap { strategy in
        LocalKernel.allCases.filter { TestScale.full || strategy == .ring || $0 == .cpu }.map {
            DistributedKernel(strategy: strategy, local: $0)
        }
    }

    func over(_ communicator: any Communicator) -> any AttentionBackend { strategy.over(local, communicator) }

    /// Whether everything is tried that there is: the ring always, the others in `make test-all`.
    private var isThorough: Bool { TestScale.full || strategy == .ring }

    /// The cases of ConformanceKit, or the short ones.
    var cases: [AttentionCase] { AttentionConformance.cases().filter { isThorough || $0.length <= 120 } }

    /// All numbers of ranks, or one for a long case.
    func ringSizes(_ input: AttentionCase) -> [Int] {
        isThorough || input.length <= 120 ? TestScale.ringSizes : [4]
    }

    /// Layouts worth trying at this number of ranks: only for the ring is each another order of hops.
    func layouts(_ ranks: Int) -> [SequenceLayout] {
        isThorough || ranks == 3 ? SequenceLayout.allCases : [.zigzag]
    }
}

/// Expects of every strategy, over every local kernel, number of ranks and layout, results within the bounds of the oracle.
func expectStrategiesEqualTheOracle(_ input: AttentionCase) throws {
    let truth = AttentionTruth(input)
    for kernel in DistributedKernel.all {
        for ranks in kernel.ringSizes(input) {
            for layout in kernel.layouts(ranks) {
                let outcome = try AttentionOutcome(input, ranks: ranks, layout: layout) { kernel.over($0) }
                let violations = truth.violations(outcome)
                #expect(
                    violations.isEmpty, "\(kernel), \(ranks) ranks, \(layout):\n\(violations.joined(separator: "\n"))")
            }
        }
    }
}
