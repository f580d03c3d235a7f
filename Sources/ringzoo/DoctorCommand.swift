import ArgumentParser
import BlockwiseAttention
import Foundation
import TensorCore
import ZooCore
import ZooStandard

struct DoctorCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "doctor", abstract: "Show what this machine offers, and what is missing.",
        discussion: "Example: ringzoo doctor --ceilings")

    @Flag(help: "Also measure the ceilings of multiply-adds and of memory, for about a second.") var ceilings = false

    func run() throws {
        let environment = ProcessInfo.processInfo.environment
        print(Ringzoo.versionText)
        print(
            "cores             \(ProcessInfo.processInfo.activeProcessorCount)\(environment["RINGZOO_THREADS"].map { ", RINGZOO_THREADS \($0)" } ?? "")"
        )
        print("memory            \(byteText(Int(ProcessInfo.processInfo.physicalMemory)))")
        print("processor         \(processorName())")
        print(
            "attention kernels \(BlockwiseAttention.kernels)\(environment["RINGZOO_KERNELS"] == nil ? "" : " (forced by RINGZOO_KERNELS)")"
        )
        let products = try ProductChoice.fromEnvironment()
        let isForced = environment["RINGZOO_PRODUCTS"] == nil ? "" : " (forced by RINGZOO_PRODUCTS)"
        print("float32 products  \(products.float32)\(isForced)")
        print("bf16 products     \(products.bfloat16)\(isForced)")
        print("oneDNN            \(oneDNNText(products))")
        print("OpenBLAS kernels  \(CPUDevice.productKernels)")
        if let forced = environment["OPENBLAS_CORETYPE"] {
            print(
                "  warning: OPENBLAS_CORETYPE is '\(forced)', which may force slow products; unset it, or compare 'ringzoo attention bench --backends blas'"
            )
        } else if let advice = OpenBLASCore.current.advice {
            print("  warning: \(advice)")
        }
        if ceilings {
            let measured = MachineCeilings(on: ThreadPool(workers: try Terminal.threads() ?? CPUDevice.defaultThreads))
            print(
                "ceilings          \(Terminal.number(measured.gigaflops, 1)) GFLOP/s float32, \(Terminal.number(measured.readGigabytes, 1)) GB/s read from memory, \(measured.threads) thread\(measured.threads == 1 ? "" : "s")"
            )
        }
        print("real data         \(environment["RINGZOO_DATA"] ?? "RINGZOO_DATA is not set")")
        let zoo = try ZooStandard.zoo()
        for name in zoo.attention.names {
            let reasons = try zoo.attention.entry(name).unavailableReasons()
            print("backend \(padded(name, 9)) \(reasons.isEmpty ? "ready" : reasons.joined(separator: "; "))")
        }
        for name in zoo.links.names {
            let link = try zoo.links.entry(name)
            let state = Result { try link.describe() }
            print("link \(padded(name, 12)) \((try? state.get()) ?? "not here") (\(link.summary))")
            if case .failure(let error) = state { print("  \(error)") }
            if let launch = link.launch {
                print("  started by \(launch.launcher) as rank \(launch.rank) of \(launch.ranks)")
            }
        }
        for (feature, why) in [("cuda", "NVIDIA GPUs")]
        where !zoo.attention.names.contains(feature) {
            print("\(padded(feature, 17)) not in this version (\(why))")
        }
    }

    /// What it does here, or what is lost without it.
    private func oneDNNText(_ products: ProductChoice) -> String {
        if products.bfloat16 == .onednn { return "\(OneDNN.name), computes bf16 products" }
        guard ProductChoice.hasBFloat16Arithmetic else { return "not needed: this processor has no bf16 arithmetic" }
        return "not used, so that bf16 products are no faster than float32's: "
            + (OneDNN.unavailableReason(for: .bfloat16) ?? "forbidden by RINGZOO_PRODUCTS")
    }

    private func processorName() -> String {
        guard let text = try? String(contentsOfFile: "/proc/cpuinfo", encoding: .utf8) else { return "unknown" }
        let line = text.split(separator: "\n").first { $0.hasPrefix("model name") }
        return line.flatMap { $0.split(separator: ":").last }.map { $0.trimmingCharacters(in: .whitespaces) }
            ?? "unknown"
    }
}
