import CMPIShim
import DistributedCore
import Foundation
import Synchronization
import TensorCore

/// This process as one rank of an MPI job.
///
/// One thread makes all calls of MPI: it starts what it is asked to, moves messages on while kernels run (Open MPI does nothing between
/// calls), and sleeps in between, the longer the less there is to do, so that ranks that share a core leave it to each other. Everyone
/// else waits on a lock.
public final class MPIProcess: Sendable {
    public let rank: Int
    public let size: Int
    private let state: Monitor<State>
    private let waiters = Atomic(0)
    private let currentWait = Mutex<String?>(nil)

    private enum Work: Sendable {
        case send(ticket: Int, Packet, peer: Int, context: Int)
        case receive(ticket: Int, peer: Int, context: Int, any Device)
        case announce(LinkFailure)
    }

    private struct State {
        var work: [Work] = []
        var tickets = 0
        /// Of transfers that are over and not yet asked for; a send has no packet.
        var results: [Int: Result<Packet?, LinkFailure>] = [:]
        var failure: LinkFailure?
        var isClosing = false
        var isClosed = false
    }

    /// MPI can be started once in a process.
    private static let shared = Mutex<MPIProcess?>(nil)

    /// Joins the job, the first time; returns when all its processes have.
    ///
    /// - Parameters:
    ///   - deadline: seconds to wait for processes that start later.
    ///   - messageLimit: bytes of one message of MPI at most (headers excepted), the same in all processes.
    /// - Throws: `.config` where MPI cannot be opened, is not the launcher's, or refuses calls from several threads; `.interrupted` where
    ///   not all processes came.
    public static func join(
        deadline: Double, messageLimit: Int = Int(RZ_MPI_LARGEST_MESSAGE)
    ) throws -> MPIProcess {
        try shared.withLock { shared in
            if let shared { return shared }
            let launcher = Launcher()
            let library = try MPILibrary.open(for: launcher)
            let process = try MPIProcess(library, launcher, deadline, messageLimit)
            shared = process
            return process
        }
    }

    private init(_ library: MPILibrary, _ launcher: Launcher?, _ deadline: Double, _ messageLimit: Int) throws {
        let state = Monitor(State())
        self.state = state
        let start = Monitor<(code: Int32, isGranted: Bool)?>(nil)
        let begin = Monitor<MPIProcess?>(nil)
        let thread = Thread {
            rz_mpi_sleep_precisely()
            var isGranted: Int32 = 0
            let code = rz_mpi_init(&isGranted)
            start.update { $0 = (code, isGranted != 0) }
            guard let process = begin.wait(until: .infinity, { $0 }) else { return }
            ProgressLoop(process, messageLimit: messageLimit).run()
        }
        thread.name = "mpi"
        thread.start()
        let what = launcher.map { "\($0.name) started \($0.size) processes" } ?? "no launcher started this process"
        guard let (code, isGranted) = start.wait(until: MonotonicClock.seconds + deadline, { $0 }) else {
            throw RingZooError(
                .interrupted, "\(library.family) has not started within \(deadline) s: a rank is missing (\(what))")
        }
        if code != 0 {
            throw RingZooError(
                .config, "\(library.version) cannot start: \(String(cString: rz_mpi_error_text(code)))", tried: [what])
        }
        (rank, size) = (Int(rz_mpi_rank()), Int(rz_mpi_size()))
        if let launcher, launcher.size != size || launcher.rank != rank {
            throw RingZooError(
                .config,
                "\(what), but \(library.version) (\(library.file)) sees a world of \(size): launcher and library do not belong together",
                tried: [
                    "the mpirun that came with this library would work (Debian: mpirun.openmpi, mpirun.mpich)",
                    "RINGZOO_MPI names another library; under Slurm, srun --mpi=pmix or --mpi=pmi2 may be what is missing",
                ])
        }
        if !isGranted {
            throw RingZooError(
                .config, "\(library.version) was built without support for several threads (MPI_THREAD_MULTIPLE)",
                tried: ["Debian's openmpi-bin and libopenmpi3 would work"])
        }
        begin.update { $0 = self }
    }

    // MARK: For links

    func send(_ packet: Packet, to peer: Int, context: Int) -> Int {
        post { .send(ticket: $0, packet, peer: peer, context: context) }
    }

    func receive(from peer: Int, context: Int, on device: any Device) -> Int {
        post { .receive(ticket: $0, peer: peer, context: context, device) }
    }

    private func post(_ work: (_ ticket: Int) -> Work) -> Int {
        state.update { state in
            state.tickets += 1
            state.work.append(work(state.tickets))
            return state.tickets
        }
    }

    /// The result of a transfer (a send gives an empty packet); nil when the deadline passed first.
    func wait(for ticket: Int, until deadline: Double) throws -> Packet? {
        waiters.add(1, ordering: .relaxed)
        defer { waiters.subtract(1, ordering: .relaxed) }
        return try state.wait(until: deadline) { state -> Packet? in
            if let result = state.results.removeValue(forKey: ticket) {
                return try result.get() ?? Packet(header: [], tensors: [])
            }
            if let failure = state.failure { throw failure }
            return nil
        }
    }

    func note(wait: String?) { currentWait.withLock { $0 = wait } }

    /// What this process's rank is waiting for, in words; nil where it is not waiting, or is no rank of an MPI job.
    public static var wait: String? { shared.withLock { $0 }?.currentWait.withLock { $0 } }

    // MARK: The end

    /// Tells every rank that this one has failed, and why; all their waits end with it. Nothing new where this rank was told so itself.
    func announce(_ failure: LinkFailure) {
        state.update { state in
            if state.failure == nil { state.work.append(.announce(failure)) }
        }
    }

    /// Seconds that other ranks are given to say what they have met, and to end with this one.
    private static let grace = 0.7

    /// Ends this process with `code`; where it is a rank of a job, all ranks end so, and nothing is under way between them.
    public static func exit(_ code: Int32) -> Never {
        if let process = shared.withLock({ $0 }) {
            process.state.update { $0.isClosing = true }
            // MPI_Finalize waits for all ranks. All is done; one that has stopped must not keep the others.
            let isClosed = process.state.wait(until: MonotonicClock.seconds + 10 * grace) { $0.isClosed ? true : nil }
            if isClosed == nil { exitAll(code) }
        }
        Foundation.exit(code)
    }

    /// Ends this process with `code`, and the whole job where it is a rank of one: the last word after a failure.
    public static func exitAll(_ code: Int32) -> Never {
        if shared.withLock({ $0 == nil }) { Foundation.exit(code) }
        Thread.sleep(forTimeInterval: grace)
        // MPI_Abort itself may wait for a process that does not answer.
        Thread.detachNewThread { rz_mpi_abort(code) }
        Thread.sleep(forTimeInterval: grace)
        // Handlers of exit may belong to an MPI that is in disorder.
        _exit(code)
    }
}

// MARK: The thread that calls MPI

extension MPIProcess {
    private final class ProgressLoop {
        private let process: MPIProcess
        private let messageLimit: Int
        private var active: [any ActiveTransfer] = []
        private var failureReport: UnsafeMutableRawBufferPointer
        private var failureReceive: WireMessage?
        private var announcements: [(WireMessage, UnsafeMutableRawBufferPointer)] = []

        private static let reportSize = 2048

        init(_ process: MPIProcess, messageLimit: Int) {
            self.process = process
            self.messageLimit = messageLimit
            failureReport = .allocate(byteCount: Self.reportSize, alignment: 64)
        }

        func run() {
            listen()
            var lastAdvance = MonotonicClock.seconds
            var looks = 0
            while true {
                let (work, isClosing) = process.state.update { state in
                    defer { state.work = [] }
                    return (state.work, state.isClosing)
                }
                for item in work { start(item) }
                if poll() || !work.isEmpty {
                    lastAdvance = MonotonicClock.seconds
                } else if looks < Pause.looks && active.contains(where: \.movesPayload) {
                    looks += 1
                    sched_yield()
                } else {
                    looks = 0
                    pause(since: lastAdvance)
                }
                if isClosing && active.isEmpty { return finish() }
            }
        }

        private func start(_ work: Work) {
            switch work {
            case .send(let ticket, let packet, let peer, let context):
                begin(ticket) {
                    try Outgoing(packet, ticket: ticket, peer: peer, context: context, messageLimit: messageLimit)
                }
            case .receive(let ticket, let peer, let context, let device):
                begin(ticket) {
                    try Incoming(
                        ticket: ticket, peer: peer, context: context, device: device, messageLimit: messageLimit)
                }
            case .announce(let failure):
                announce(failure)
            }
        }

        private func begin(_ ticket: Int, _ make: () throws -> any ActiveTransfer) {
            do { active.append(try make()) } catch {
                publish([(ticket, .failure(error as? LinkFailure ?? LinkFailure("\(error)")))])
            }
        }

        private func publish(_ results: [(Int, Result<Packet?, LinkFailure>)]) {
            process.state.update { state in for (ticket, result) in results { state.results[ticket] = result } }
        }

        /// Moves everything on; true when anything happened.
        private func poll() -> Bool {
            var advanced = hear()
            var results: [(Int, Result<Packet?, LinkFailure>)] = []
            active.removeAll { transfer in
                switch transfer.poll() {
                case .waiting: return false
                case .advanced: advanced = true
                case .done(let packet): results.append((transfer.ticket, .success(packet)))
                case .failed(let failure): results.append((transfer.ticket, .failure(failure)))
                }
                return results.last?.0 == transfer.ticket
            }
            // The memory of what was sent is the sender's again before it hears so.
            if !results.isEmpty { publish(results) }
            return advanced || !results.isEmpty
        }

        /// Seconds between two looks. Nothing but a peer's failure can come where nothing is under way.
        private enum Pause {
            static let idle = 5e-3
            /// Looks at a payload on its way between two pauses: each moves some 64 KiB where a message goes through a buffer.
            static let looks = 32
            static let behindComputation = 200e-6
            /// Where someone waits: a tenth of the time since something last happened, within these bounds.
            static let waitedFor = 20e-6...1e-3
            /// The same at most while a payload is on its way, which moves without anything happening.
            static let waitedForPayload = 60e-6
            /// After something happened more is likely to follow: so long the thread only lets others go first.
            static let eagerness = 100e-6
        }

        private func pause(since lastAdvance: Double) {
            let isWaitedFor = process.waiters.load(ordering: .relaxed) > 0
            let now = MonotonicClock.seconds
            let quiet = now - lastAdvance
            if isWaitedFor && quiet < Pause.eagerness {
                sched_yield()
                return
            }
            let longest = active.contains(where: \.movesPayload) ? Pause.waitedForPayload : Pause.waitedFor.upperBound
            let wait = min(max(quiet / 10, Pause.waitedFor.lowerBound), longest)
            let pause = active.isEmpty ? Pause.idle : isWaitedFor ? wait : Pause.behindComputation
            _ = process.state.wait(until: now + pause) { $0.work.isEmpty && !$0.isClosing ? nil : true }
        }

        // MARK: Failures of ranks

        private func listen() {
            let piece = rz_mpi_piece(address: failureReport.baseAddress, count: failureReport.count)
            failureReceive = try? WireMessage(
                .receive, [piece], peer: Int(RZ_MPI_ANY_PEER), tag: Wire.failureTag)
        }

        private func hear() -> Bool {
            guard let message = failureReceive, (try? message.poll()) == true else { return false }
            let failure = Wire.failure(failureReport.prefix(message.arrivedBytes))
            process.state.update { if $0.failure == nil { $0.failure = failure } }
            listen()
            return true
        }

        private func announce(_ failure: LinkFailure) {
            let bytes = Wire.bytes(failure).prefix(Self.reportSize)
            for peer in 0..<process.size where peer != process.rank {
                let copy = UnsafeMutableRawBufferPointer.allocate(byteCount: bytes.count, alignment: 64)
                copy.copyBytes(from: bytes)
                let piece = rz_mpi_piece(address: copy.baseAddress, count: copy.count)
                if let message = try? WireMessage(.send, [piece], peer: peer, tag: Wire.failureTag) {
                    // Kept until the process ends, which is soon.
                    announcements.append((message, copy))
                }
            }
        }

        private func finish() {
            failureReceive?.cancel()
            while let message = failureReceive, !message.isOver, (try? message.poll()) == false { sched_yield() }
            _ = rz_mpi_finalize()
            process.state.update { $0.isClosed = true }
        }
    }
}
