import ConformanceKit
import DistributedCore
import Foundation
import TensorCore
import Testing

@Suite struct InProcessCommunicatorTests {
    static let full = ProcessInfo.processInfo.environment["RINGZOO_TEST_ALL"] != nil

    @Test(arguments: [1, 2, 3, 4, 5, 7, 8] + (full ? [16] : []))
    func conforms(_ ranks: Int) throws {
        let violations = try InProcessRanks.run(ranks, threads: ranks) { communicator, _ in
            try CommunicatorConformance.violations(of: communicator)
        }
        let found = violations.flatMap { $0 }
        #expect(found.isEmpty, "\(found.joined(separator: "\n"))")
    }

    @Test func resultsComeInTheOrderOfRanks() throws {
        #expect(try InProcessRanks.run(9) { communicator, _ in communicator.rank } == Array(0..<9))
    }

    /// The law of memory per rank stands on this: every rank counts its own bytes alone.
    @Test func everyRankHasADeviceOfItsOwn() throws {
        let devices = try InProcessRanks.run(4, threads: 8) { communicator, device in
            #expect(communicator.device === device)
            let before = device.ledger.live()
            let tensor = Tensor.zeros([communicator.rank + 1, 1024], on: device)
            try communicator.barrier()
            let own = device.ledger.live() - before
            #expect(own == tensor.byteCount)
            #expect(device.pool.workers == 2)
            return device
        }
        #expect(Set(devices.map(ObjectIdentifier.init)).count == 4)
    }

    @Test func whatWasNotExpectedIsAnError() throws {
        func exchange(expecting shape: [Int]) throws {
            _ = try InProcessRanks.run(2) { ranks, device in
                let messages = (0..<2).map { _ in Message([Tensor.zeros([ranks.rank + 1], on: device)]) }
                _ = try ranks.allToAll(messages) { sender in [sender == 0 ? [1] : shape] }
            }
        }
        try exchange(expecting: [2])
        let error = #expect(throws: RingZooError.self) { try exchange(expecting: [3]) }
        #expect(error?.message.contains("expected [[3]] from rank 1, got [[2]]") == true)
    }

    /// Ring all-gather would send the same, all-to-all likewise; the sums of this communicator are one exchange each.
    @Test func collectivesCountWhatGoesToOthers() throws {
        let ranks = 4
        _ = try InProcessRanks.run(ranks) { communicator, device in
            let tensor = Tensor.zeros([8, 3], on: device)
            func traffic(_ body: () throws -> Void) throws -> Traffic {
                let before = communicator.traffic
                try body()
                return communicator.traffic - before
            }
            let others = Traffic(messages: ranks - 1, bytes: (ranks - 1) * tensor.byteCount)
            let reduced = try traffic { _ = try communicator.allReduce(tensor) }
            #expect(reduced == others)
            let gathered = try traffic { _ = try communicator.allGather(Message([tensor])) }
            #expect(gathered == others)
            let scattered = try traffic { _ = try communicator.reduceScatter(tensor) }
            #expect(scattered == Traffic(messages: ranks - 1, bytes: (ranks - 1) * tensor.byteCount / ranks))
            let told = try traffic { _ = try communicator.broadcast(Message([tensor]), from: 2) }
            #expect(told == (communicator.rank == 2 ? others : Traffic()))
        }
    }

    /// A large sum is a reduce-scatter and an all-gather: 2 (N - 1) / N of the bytes, whatever N, in segments.
    @Test(arguments: [2, 3, 4, 5])
    func largeSumsSendTwiceTheirBytesAtMost(_ ranks: Int) throws {
        let count = 10_001
        let traffic = try InProcessRanks.run(ranks, threads: ranks) { communicator, device in
            let tensor = Tensor((0..<count).map { Float($0 % 100) + Float(communicator.rank) }, on: device)
            let sum = try communicator.allReduce(tensor)
            let offset = Float(ranks * (ranks - 1) / 2)
            #expect(sum.values(Float.self) == (0..<count).map { Float($0 % 100) * Float(ranks) + offset })
            return communicator.traffic
        }
        #expect(traffic.allSatisfy { $0.messages == 2 * (ranks - 1) })
        #expect(traffic.reduce(0) { $0 + $1.bytes } == 2 * (ranks - 1) * 4 * count)
    }

    @Test func subgroupsOfSubgroupsWork() throws {
        let sums = try InProcessRanks.run(8) { communicator, _ in
            let half = try communicator.split { $0 / 4 }
            let quarter = try half.split(color: half.rank % 2)
            return try quarter.allReduce(Double(communicator.rank))
        }
        #expect(sums == [2, 4, 2, 4, 10, 12, 10, 12])
    }

    /// Two splits with equal members are two groups: their messages do not meet.
    @Test func splitsDoNotShareMessages() throws {
        _ = try InProcessRanks.run(3) { communicator, device in
            let first = try communicator.split(color: 0)
            let second = try communicator.split(color: 0)
            let a = try first.startRotate(Message([], integers: [1]))
            let b = try second.startRotate(Message([], integers: [2]))
            #expect(try b.wait().integers == [2])
            #expect(try a.wait().integers == [1])
        }
    }
}
