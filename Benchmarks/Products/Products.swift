import ArgumentParser
import BlockwiseAttention
import COpenBLAS
import Foundation
import TensorCore

/// float32 products of the shapes that a training step of LLaMA asks for: ours (`CPUDevice.matmul`), OpenBLAS and, where the
/// system has it, oneDNN, on the same number of threads in turn.
@main
struct Products: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "products",
        abstract: "Compare float32 matrix products with OpenBLAS and oneDNN.",
        discussion: """
            C (M x N) is A B summed over K; the letters say of A and of B whether they lie as named (N) or transposed (T).
            GFLOP/s are medians over rounds in which all take turns, the ceiling of multiply-adds beside them.
            Example: products --threads 1 --shapes 1024,768,288,NT
            """)

    @Option(help: "Threads of each.") var threads = CPUDevice.defaultThreads
    @Option(help: "Rounds; each runs every contestant for about 30 ms.") var rounds = 7
    @Option(help: "Shapes M,N,K,NT separated by colons.") var shapes = standardShapes

    /// Of llama/tiny-24m (width 288, 1,024 tokens, vocabulary 32,000) and byte-25m (width 512, 4,096 tokens): forward NT, the
    /// gradient of the input NN, of the weights TN.
    static let standardShapes = """
        1024,288,288,NT:1024,768,288,NT:1024,288,768,NT:1024,288,768,NN:1024,768,288,NN:288,288,1024,TN:768,288,1024,TN:\
        288,768,1024,TN:256,32000,288,NT:256,288,32000,NN:32000,288,256,TN:4096,512,512,NT:4096,1376,512,NT:\
        4096,512,1376,NT:512,512,4096,TN:1376,512,4096,TN:512,1376,4096,TN
        """

    func run() throws {
        let device = CPUDevice(threads: threads)
        var contestants: [(name: String, product: (Operands) -> Void)] = [
            ("ours", { device.matmul($0.a, $0.b, into: $0.c, accumulate: false) }),
            ("OpenBLAS", { openBLAS($0, threads: threads) }),
        ]
        if let oneDNN = OneDNN(threads: threads) { contestants.append(("oneDNN", oneDNN.product)) }
        print("\(threads) threads, ours: \(device.products), OpenBLAS: \(CPUDevice.productKernels)")
        if contestants.count < 3 { print("no oneDNN here (Debian: libdnnl2)") }
        print(row("M,N,K", "ceiling", contestants.map(\.name)))
        for text in shapes.split(separator: ":") {
            let operands = try Operands(parsing: text, on: device)
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
