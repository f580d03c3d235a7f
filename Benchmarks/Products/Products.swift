import ArgumentParser
import BlockwiseAttention
import COpenBLAS
import Foundation
import TensorCore

/// Products of the shapes that a training step of LLaMA asks for, on the same number of threads in turn. float32: ours
/// (`CPUDevice.matmul`), OpenBLAS and, where the system has it, oneDNN, each with threads of its own. bf16: all kernels that a device
/// can be told to use here, on tiles of our threads.
@main
struct Products: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "products",
        abstract: "Compare matrix products with OpenBLAS and oneDNN.",
        discussion: """
            C (M x N) is A B summed over K; the letters say of A and of B whether they lie as named (N) or transposed (T).
            GFLOP/s are medians over rounds in which all take turns, the ceiling of multiply-adds beside them.
            Example: products --threads 1 --dtype bf16 --shapes 1024,768,288,NT
            """)

    @Option(help: "Threads of each.") var threads = CPUDevice.defaultThreads
    @Option(help: "Rounds; each runs every contestant for about 30 ms.") var rounds = 7
    @Option(help: "float32 or bf16.") var dtype = "float32"
    @Option(help: "Shapes M,N,K,NT separated by colons.") var shapes = standardShapes

    /// Of llama/tiny-24m (width 288, 1,024 tokens, vocabulary 32,000) and byte-25m (width 512, 4,096 tokens): forward NT, the
    /// gradient of the input NN, of the weights TN.
    static let standardShapes = """
        1024,288,288,NT:1024,768,288,NT:1024,288,768,NT:1024,288,768,NN:1024,768,288,NN:288,288,1024,TN:768,288,1024,TN:\
        288,768,1024,TN:256,32000,288,NT:256,288,32000,NN:32000,288,256,TN:4096,512,512,NT:4096,1376,512,NT:\
        4096,512,1376,NT:512,512,4096,TN:1376,512,4096,TN:512,1376,4096,TN
        """

    typealias Contestant = (name: String, product: (Operands) -> Void)

    private func float32Contestants(_ device: CPUDevice) -> [Contestant] {
        var contestants: [Contestant] = [
            ("ours", { device.matmul($0.a, $0.b, into: $0.c, accumulate: false) }),
            ("OpenBLAS", { openBLAS($0, threads: threads) }),
        ]
        if let oneDNN = OneDNNOnItsThreads(threads) { contestants.append(("oneDNN", oneDNN.product)) }
        if contestants.count < 3 { print("no oneDNN here (Debian: libdnnl2)") }
        return contestants
    }

    private func bfloat16Contestants() -> [Contestant] {
        ProductKernels.allCases.compactMap { kernels in
            if let reason = kernels.unavailableReason(for: .bfloat16) {
                print("no \(kernels.rawValue): \(reason)")
                return nil
            }
            let device = CPUDevice(threads: threads, products: ProductChoice(float32: .openblas, bfloat16: kernels))
            return (kernels.rawValue, { device.matmul($0.a, $0.b, into: $0.c, accumulate: false) })
        }
    }

    func run() throws {
        guard ["float32", "bf16"].contains(dtype) else { throw ValidationError("--dtype is float32 or bf16") }
        let device = CPUDevice(threads: threads)
        print("\(threads) threads, ours: \(device.products), OpenBLAS: \(CPUDevice.productKernels)")
        let contestants = dtype == "bf16" ? bfloat16Contestants() : float32Contestants(device)
        print(row("M,N,K", "ceiling", contestants.map(\.name)))
        for text in shapes.split(separator: ":") {
            let operands = try Operands(parsing: text, dtype == "bf16" ? .bfloat16 : .float32, on: device)
            var rates = contestants.map { _ in [Double]() }
            var ceilings: [Double] = []
            for _ in 0..<rounds {
                ceilings.append(MachineCeilings(on: device.pool).gigaflops)
                for (i, contestant) in contestants.enumerated() {
                    let count = max(1, Int(3e9 / operands.flops))
                    contestant.product(operands)
                    let start = ContinuousClock.now
                    for _ in 0..<count { contestant.product(operands) }
                    let seconds = (ContinuousClock.now - start) / .seconds(1)
                    rates[i].append(operands.flops * Double(count) / seconds * 1e-9)
                }
            }
            let ceiling = median(ceilings)
            print(
                row(
                    String(text), String(format: "%.1f", ceiling),
                    rates.map { String(format: "%.1f (%.0f %%)", median($0), 100 * median($0) / ceiling) }))
        }
    }

    private func median(_ values: [Double]) -> Double { values.sorted()[values.count / 2] }

    private func row(_ shape: String, _ ceiling: String, _ rates: [String]) -> String {
        ([(shape, 20), (ceiling, 8)] + rates.map { ($0, 15) }).map { text, width in
            text + String(repeating: " ", count: max(1, width - text.count))
        }.joined()
    }
}
