import AttentionCore
import CPUAttention
import ConformanceKit
import DistributedCore
import GatherAttention
import MeshAttention
import RingAttention
import TensorCore
import Testing
import UlyssesAttention
import ZooCore

/// What a strategy cannot do is what its local backend cannot do.
@Suite struct RefusalTests {
    @Test(arguments: Strategy.allCases)
    func reasonsAreThoseOfTheLocalBackend(_ strategy: Strategy) throws {
        let device = CPUDevice(threads: 1)
        var problem = AttentionCase("any", heads: 1, length: 4, headSize: 4).inputs(on: device).problem
        let backend = strategy.over(.cpu, InProcessRanks.alone(on: device))
        #expect(backend.unsupportedReasons(problem) == [])
        problem.dtype = .int32
        let reasons = CPUAttention().unsupportedReasons(problem)
        #expect(reasons.count == 1)
        #expect(backend.unsupportedReasons(problem) == reasons.map { "local backend 'cpu': " + $0 })
    }

    @Test(arguments: Strategy.allCases)
    func aStrategyNeedsALocalBackendAndRanks(_ strategy: Strategy) throws {
        let (provider, device) = (strategy.provider, CPUDevice(threads: 1))
        #expect(provider.isDistributed && provider.unavailableReasons().isEmpty)
        let alone = InProcessRanks.alone(on: device)
        #expect(try provider.make(local: CPUAttention(), over: alone).name == strategy.rawValue)
        for (local, ranks) in [(nil, alone), (CPUAttention(), nil)] as [((any AttentionBackend)?, (any Communicator)?)]
        {
            let error = #expect(throws: RingZooError.self) { try provider.make(local: local, over: ranks) }
            #expect(error?.code == .config)
            #expect(error?.message == "the \(strategy) backend needs a local backend and a communicator")
        }
    }
}

extension Strategy {
    fileprivate var provider: any AttentionProvider {
        switch self {
        case .ring: RingAttentionProvider()
        case .gather: GatherAttentionProvider()
        case .ulysses: UlyssesAttentionProvider()
        case .mesh: MeshAttentionProvider(heads: UlyssesAttentionProvider(), ring: RingAttentionProvider())
        }
    }
}
