import DistributedCore
import TensorCore

/// Packets between the processes of an MPI job.
struct MPILink: Link {
    let name = "mpi"
    let rank: Int
    let device: any Device
    private let process: MPIProcess
    /// Ranks of the job, by their rank in this group.
    private let members: [Int]
    private let context: Int

    var size: Int { members.count }

    /// All ranks of the job.
    init(_ process: MPIProcess, device: any Device) {
        self.init(process, Array(0..<process.size), rank: process.rank, context: 0, device)
    }

    private init(_ process: MPIProcess, _ members: [Int], rank: Int, context: Int, _ device: any Device) {
        (self.process, self.members, self.rank) = (process, members, rank)
        (self.context, self.device) = (context, device)
    }

    func subgroup(_ members: [Int], context: Int) -> any Link {
        MPILink(
            process, members.map { self.members[$0] }, rank: members.firstIndex(of: rank)!, context: context, device)
    }

    func startSend(_ packet: Packet, to peer: Int) -> any Transfer<Void> {
        Sending(process: process, ticket: process.send(packet, to: members[peer], context: context))
    }

    func startReceive(from peer: Int) -> any Transfer<Packet> {
        Receiving(process: process, ticket: process.receive(from: members[peer], context: context, on: device))
    }

    func isWaiting(for what: String?) { process.note(wait: what) }

    private struct Sending: Transfer {
        let process: MPIProcess
        let ticket: Int

        func wait(until deadline: Double) throws -> Void? {
            try process.wait(for: ticket, until: deadline).map { _ in }
        }
    }

    private struct Receiving: Transfer {
        let process: MPIProcess
        let ticket: Int

        func wait(until deadline: Double) throws -> Packet? { try process.wait(for: ticket, until: deadline) }
    }
}
