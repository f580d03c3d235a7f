import ConformanceKit
import DistributedCore
import Foundation
import MPICommunicator
import TensorCore
import ZooCore

// One rank of a test: MPICommunicatorTests starts it with mpirun. What it finds goes to standard output.
//
//   mpi-ranks conform [LARGEST MESSAGE]      the laws of ConformanceKit; messages of MPI of so many bytes at most
//   mpi-ranks train FAULT RANK PACKET DELAY CONFIG SETTINGS
//                                            a run in which one rank harms one packet of its rotations
//   mpi-ranks stop RANK SIGNAL               rotations in which one rank sends itself a signal
//   mpi-ranks throw RANK                     rotations in which one rank fails
//   mpi-ranks version NAME                   joins a run as a rank of another version of the program
//   mpi-ranks late                           only starts, and waits three deadlines for the others
//   mpi-ranks overlap MEGABYTES SECONDS [unchecked]
//                                            what is left of a transfer behind work, without checksums or with them

let arguments = Array(CommandLine.arguments.dropFirst())

func number(_ index: Int) -> Int { arguments.indices.contains(index) ? Int(arguments[index]) ?? 0 : 0 }

/// Short, so that a test which waits for it is short.
let deadline = 1.0

func rotate(_ communicator: any Communicator, _ rounds: Int = 20, before: (Int) throws -> Void = { _ in }) throws {
    var message = Message([Tensor.ones([50_000], on: communicator.device)], integers: [communicator.rank])
    for hop in 0..<rounds {
        try before(hop)
        message = try communicator.startRotate(message, hop: hop).wait()
    }
}

func main() throws {
    let rules = LinkCommunicator.Rules(deadline: deadline)
    switch arguments.first {
    case "conform":
        let limit = arguments.count > 1 ? number(1) : 1 << 30
        let process = try MPIProcess.join(deadline: 30, messageLimit: limit)
        let violations = try process.run(threads: 1, .init(deadline: 30)) { communicator, _ in
            try CommunicatorConformance.violations(of: communicator)
        }
        for violation in violations { print(violation) }
        print("rank \(process.rank) of \(process.size) found \(violations.count)")
    case "train":
        guard let fault = FaultyLink.Fault(rawValue: arguments[1]) else { fatalError("no fault \(arguments[1])") }
        let (culprit, packet, delay) = (number(2), number(3), Double(arguments[4]) ?? 0)
        let processes = FaultyProcesses { link in
            link.rank == culprit ? FaultyLink(link, fault, packet: packet, of: .rotate, delay: delay) : link
        }
        try processes.train(arguments[5], Array(arguments[6...]))
    case "stop":
        let process = try MPIProcess.join(deadline: 30)
        try process.run(threads: 1, rules) { communicator, _ in
            try rotate(communicator) { if $0 == 5 && communicator.rank == number(1) { raise(Int32(number(2))) } }
        }
    case "throw":
        let process = try MPIProcess.join(deadline: 30)
        try process.run(threads: 1, rules) { communicator, _ in
            try rotate(communicator) {
                if $0 == 5 && communicator.rank == number(1) { throw RingZooError(.failed, "out of luck") }
            }
        }
    case "version":
        let process = try MPIProcess.join(deadline: 30)
        try process.run(threads: 1, rules) { communicator, _ in
            try RankIdentity(program: ProgramIdentity(version: arguments[1]), task: "").agree(over: communicator)
        }
    case "late":
        let process = try MPIProcess.join(deadline: 3 * deadline)
        try process.run(threads: 1, rules) { communicator, _ in try communicator.barrier() }
    case "overlap":
        let process = try MPIProcess.join(deadline: 30)
        try process.run(threads: 1, .init(deadline: 30, checksums: arguments.last != "unchecked")) { communicator, _ in
            try measureOverlap(communicator, bytes: number(1) << 20, seconds: Double(arguments[2]) ?? 0.05)
        }
    default:
        fatalError("what should the ranks do?")
    }
}

/// Times a rotation by itself, work by itself, and the one behind the other; rank 0 prints medians in milliseconds.
func measureOverlap(_ communicator: any Communicator, bytes: Int, seconds: Double) throws {
    let device = communicator.device
    let message = Message([Tensor.ones([bytes / 8], on: device), Tensor.ones([bytes / 8], on: device)])
    let x = Tensor.ones([128, 128], on: device)
    func timed(_ body: () throws -> Void) throws -> Double {
        try communicator.barrier()
        let start = MonotonicClock.seconds
        try body()
        return (MonotonicClock.seconds - start) * 1e3
    }
    // Touches nothing of MPI.
    func work(_ rounds: Int) { for _ in 0..<rounds { _ = Tensor.matmul(x, x) } }
    work(100)
    let rounds = Int(1e5 * seconds / (try timed { work(100) }))
    var (transfers, works, both, left): ([Double], [Double], [Double], [Double]) = ([], [], [], [])
    for _ in 0..<15 {
        transfers.append(try timed { _ = try communicator.startRotate(message).wait() })
        works.append(try timed { work(rounds) })
        both.append(
            try timed {
                let pending = try communicator.startRotate(message)
                work(rounds)
                let start = MonotonicClock.seconds
                _ = try pending.wait()
                left.append((MonotonicClock.seconds - start) * 1e3)
            })
    }
    func median(_ values: [Double]) -> String { String(format: "%.2f", values.sorted()[values.count / 2]) }
    if communicator.rank == 0 {
        print(
            "\(bytes >> 20) MiB: transfer \(median(transfers)) ms, work \(median(works)) ms, both \(median(both)) ms,"
                + " waited \(median(left)) ms of it")
    }
}

do {
    try main()
} catch {
    FileHandle.standardError.write(Data("error: \(error)\n".utf8))
    MPIProcess.exitAll((error as? RingZooError)?.code.exitCode ?? 1)
}
MPIProcess.exit(0)
