import ConformanceKit
import DistributedCore
import Foundation
import TensorCore
import Testing

/// Whatever happens to a packet on its way, the run ends soon, with an error that names the rank, its peer and the hop.
@Suite struct FaultyLinkTests {
    static let (ranks, culprit, deadline) = (4, 1, 0.3)
    /// Packets that each rank has sent before one is harmed; a rotation is one.
    static let packet = 5

    /// What the error says of the packet.
    static func words(_ fault: FaultyLink.Fault) -> String {
        switch fault {
        case .cutOff, .delay: "within \(deadline) s"
        case .drop, .reorder: "its packet \(packet + 1) arrived where packet \(packet) was due"
        case .duplicate: "its packet \(packet) arrived where packet \(packet + 1) was due"
        case .truncate: "its packet is truncated: 60 of 120 bytes arrived"
        case .bitFlip: "was changed on the way"
        case .headerBitFlip: "the header of its packet is damaged"
        }
    }

    private static func rotate(_ fault: FaultyLink.Fault, delay: Double = 2 * deadline) throws {
        let rules = LinkCommunicator.Rules(deadline: deadline)
        _ = try InProcessRanks.run(ranks, threads: ranks, rules) { link in
            link.rank == culprit ? FaultyLink(link, fault, packet: packet, delay: delay) : link
        } _: { communicator, device in
            for hop in 0..<4 * packet {
                // Two under way at once, as in a backward pass, so that one can overtake the other.
                let first = try communicator.startRotate(Message([Tensor.ones([30], on: device)]), hop: hop)
                let second = try communicator.startRotate(Message([Tensor.ones([30], on: device)]), hop: hop)
                _ = try first.wait()
                _ = try second.wait()
            }
        }
    }

    @Test(arguments: FaultyLink.Fault.allCases)
    func harmIsAnErrorThatNamesIt(_ fault: FaultyLink.Fault) throws {
        let start = ContinuousClock.now
        let error = try #require(throws: RingZooError.self) { try Self.rotate(fault) }
        #expect(ContinuousClock.now - start < .seconds(Self.deadline + 5))
        #expect(error.code == .interrupted)
        #expect(error.message.contains(Self.words(fault)), "\(error)")
        // Of ranks that wait for each other in a ring, any can be the first whose time is over.
        if fault == .cutOff || fault == .delay { return }
        #expect(error.message.contains("rank 2 lost rank 1 in rotate"), "\(error)")
        #expect(error.message.contains("hop \(fault == .duplicate ? 3 : 2)"), "\(error)")
    }

    /// Late is not lost, as long as it comes within the deadline.
    @Test func aShortDelayIsNoFault() throws { try Self.rotate(.delay, delay: Self.deadline / 4) }

    /// Without checksums a changed bit passes, and nothing else does.
    @Test func onlyChecksumsSeeAChangedBit() throws {
        let rules = LinkCommunicator.Rules(deadline: Self.deadline, checksums: false)
        func sums(_ fault: FaultyLink.Fault) throws -> [Double] {
            try InProcessRanks.run(2, threads: 2, rules) { link in
                link.rank == 0 ? FaultyLink(link, fault, packet: 0) : link
            } _: { communicator, device in
                try communicator.startRotate(Message([Tensor.ones([8], on: device)])).wait().tensors[0].sum().item
            }
        }
        #expect(try sums(.bitFlip) != [8, 8])
        #expect(throws: RingZooError.self) { try sums(.truncate) }
    }

    /// A rank that is somewhere else in the program is told apart from one that is lost.
    @Test func ranksThatDoDifferentThingsAreTold() throws {
        let error = try #require(throws: RingZooError.self) {
            try InProcessRanks.run(2) { communicator, device in
                if communicator.rank == 0 { try communicator.barrier() }
                _ = try communicator.allReduce(Tensor.ones([3], on: device))
            }
        }
        #expect(error.message.contains("it is in"), "\(error)")
    }
}
