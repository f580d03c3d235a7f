import ArgumentParser
import BlockwiseAttention
import Foundation
import MPICommunicator
import TensorCore
import ZooCore

@main
struct Ringzoo: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "ringzoo",
        abstract: "Train, fine-tune and run transformers over contexts that do not fit one device.",
        discussion: """
            Example: ringzoo train run.yaml --set optimizer.rate=1e-4

            Exit codes: 0 done; 1 failed run; 64 usage; 65 corrupt or hostile input; 66 input missing; 70 internal; 74 disk or I/O; \
            75 stopped on purpose or by a lost rank, run again with --resume; 78 bad config.
            """,
        version: versionText,
        subcommands: [
            TrainCommand.self, EvaluateCommand.self, GenerateCommand.self, ForwardCommand.self, CheckpointCommand.self,
            AttentionCommand.self, PlanCommand.self, ModelsCommand.self, BackendsCommand.self, DoctorCommand.self,
        ])

    static var versionText: String {
        "ringzoo \(ProgramIdentity.this), attention kernels \(BlockwiseAttention.kernels), products \(ProductChoice.standard), OpenBLAS \(CPUDevice.productKernels)"
    }

    /// Runs the command and ends with the exit code that fits the error.
    static func main() {
        do {
            try applyKernelChoice()
            _ = try ProductChoice.fromEnvironment()
            var command = try parseAsRoot()
            try command.run()
            MPIProcess.exit(0)
        } catch let error as RingZooError {
            report(error)
            MPIProcess.exitAll(error.code.exitCode)
        } catch let code as ExitCode {
            MPIProcess.exit(code.rawValue)
        } catch {
            exit(withError: error)
        }
    }

    /// An error that has nothing to do with peers is most often the same on every rank: rank 0 gets a moment to say it, which ends the
    /// job. What a rank knows about its peers it says at once.
    private static func report(_ error: RingZooError) {
        if Terminal.rank != 0 && error.code != .interrupted { Thread.sleep(forTimeInterval: 1) }
        Terminal.error("\(error)")
    }

    /// RINGZOO_KERNELS forces a set of attention kernels.
    private static func applyKernelChoice() throws {
        guard let name = ProcessInfo.processInfo.environment["RINGZOO_KERNELS"] else { return }
        if !BlockwiseAttention.setKernels(name) {
            throw RingZooError(
                .config, "RINGZOO_KERNELS is '\(name)', which this machine cannot run",
                tried: [
                    "'\(BlockwiseAttention.kernels)' is the best one here",
                    "amx, avx512bf16, avx512, avx2, portable, bf16-emulated and amx-emulated (slow, for tests) are known",
                ])
        }
    }
}
