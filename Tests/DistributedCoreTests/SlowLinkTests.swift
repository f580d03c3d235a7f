import ConformanceKit
import DistributedCore
import TensorCore
import Testing

@Suite struct SlowLinkTests {
    @Test func conforms() throws {
        let violations = try InProcessRanks.run(3, threads: 3, .init()) { link in
            SlowLink(link, LinkSpeed(bandwidth: 1e8, latency: 1e-4))
        } _: { communicator, _ in
            try CommunicatorConformance.violations(of: communicator)
        }
        #expect(violations.flatMap { $0 }.isEmpty)
    }

    /// Two messages of one rank share its wire, whomever they go to; the latency comes once.
    @Test func packetsLeaveOneAfterTheOther() throws {
        let (count, speed) = (20_000, LinkSpeed(bandwidth: 1e7, latency: 0.005))
        let seconds = try InProcessRanks.run(3, threads: 3, .init()) { link in
            SlowLink(link, speed)
        } _: {
            communicator, device in
            let start = MonotonicClock.seconds
            _ = try communicator.allGather(Message([Tensor.zeros([count], on: device)]))
            return MonotonicClock.seconds - start
        }
        let least = 2 * Double(4 * count) / speed.bandwidth + speed.latency
        for taken in seconds { #expect(taken >= least) }
    }
}
