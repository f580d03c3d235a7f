import ArgumentParser
import BlockwiseAttention
import CVersion
import Foundation
import TensorCore

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
            AttentionCommand.self, ModelsCommand.self, BackendsCommand.self, DoctorCommand.self,
        ])

    static var versionText: String {
        "ringzoo \(String(cString: rz_version())) (\(String(cString: rz_commit()))), attention kernels \(BlockwiseAttention.kernels), products \(CPUDevice.float32Products), OpenBLAS \(CPUDevice.productKernels)"
    }

    /// Runs the command and ends with the exit code that fits the error.
    static func main() {
        do {
            try applyKernelChoice()
            var command = try parseAsRoot()
            try command.run()
        } catch let error as RingZooError {
            Terminal.error("\(error)")
            Foundation.exit(error.code.exitCode)
        } catch {
            exit(withError: error)
        }
    }

    /// RINGZOO_KERNELS forces a set of attention kernels.
    private static func applyKernelChoice() throws {
        guard let name = ProcessInfo.processInfo.environment["RINGZOO_KERNELS"] else { return }
        if !BlockwiseAttention.setKernels(name) {
            throw RingZooError(
                .config, "RINGZOO_KERNELS is '\(name)', which this machine cannot run",
                tried: ["'\(BlockwiseAttention.kernels)' is the best one here; avx512, avx2 and portable are known"])
        }
    }
}
