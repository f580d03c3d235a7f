import ArgumentParser
import COpenBLAS
import Foundation
import TensorCore

/// A, B and C of one product, with the numbers that BLAS asks for.
struct Operands {
    let m, n, k: Int
    let aTransposed, bTransposed: Bool
    /// Views of shape [m, k] and [k, n], and the result [m, n].
    let a, b, c: Tensor

    var flops: Double { 2 * Double(m) * Double(n) * Double(k) }
    var aPitch: Int { aTransposed ? m : k }
    var bPitch: Int { bTransposed ? k : n }

    init(parsing text: Substring, _ dtype: DType, on device: CPUDevice) throws {
        let parts = text.split(separator: ",")
        let sizes = parts.prefix(3).compactMap { Int($0) }.filter { $0 > 0 }
        guard parts.count == 4, sizes.count == 3, ["NN", "NT", "TN", "TT"].contains(parts[3]) else {
            throw ValidationError("'\(text)' is not a shape; it has the form M,N,K,NT, e.g. 1024,768,288,NT")
        }
        (m, n, k) = (sizes[0], sizes[1], sizes[2])
        (aTransposed, bTransposed) = (parts[3].first == "T", parts[3].last == "T")
        func filled(_ rows: Int, _ columns: Int, transposed: Bool) -> Tensor {
            let count = rows * columns
            let values = (0..<count).map { Float($0 % 97) / 97 - 0.5 }
            return transposed
                ? Tensor(values, [columns, rows], on: device).cast(to: dtype).transposed(0, 1)
                : Tensor(values, [rows, columns], on: device).cast(to: dtype)
        }
        a = filled(m, k, transposed: aTransposed)
        b = filled(k, n, transposed: bTransposed)
        c = Tensor(uninitialised: [m, n], dtype, on: device)
    }

    var floats: (a: UnsafeMutablePointer<Float>, b: UnsafeMutablePointer<Float>, c: UnsafeMutablePointer<Float>) {
        (
            a.address.assumingMemoryBound(to: Float.self), b.address.assumingMemoryBound(to: Float.self),
            c.address.assumingMemoryBound(to: Float.self)
        )
    }
}

func openBLAS(_ x: Operands, threads: Int) {
    openblas_set_num_threads(Int32(threads))
    let (a, b, c) = x.floats
    cblas_sgemm(
        CblasRowMajor, x.aTransposed ? CblasTrans : CblasNoTrans, x.bTransposed ? CblasTrans : CblasNoTrans, Int32(x.m),
        Int32(x.n), Int32(x.k), 1, a, Int32(x.aPitch), b, Int32(x.bPitch), 0, c, Int32(x.n))
    // Ours may ask OpenBLAS for tiles, one thread each.
    openblas_set_num_threads(1)
}

/// oneDNN on threads of its own, found when the program runs: it is compared with, not needed.
struct OneDNNOnItsThreads {
    private typealias SGEMM =
        @convention(c) (
            CChar, CChar, Int, Int, Int, Float, UnsafePointer<Float>, Int, UnsafePointer<Float>, Int, Float,
            UnsafeMutablePointer<Float>, Int
        ) -> Int32
    private typealias ThreadCount = @convention(c) (Int32) -> Void
    private let sgemm: SGEMM
    /// Of the OpenMP library that it was built with; nil where it was built without.
    private let setThreads: ThreadCount?
    private let threads: Int

    init?(_ threads: Int) {
        self.threads = threads
        for name in ["libdnnl.so.3", "libdnnl.so.2"] {
            if let library = dlopen(name, RTLD_NOW), let symbol = dlsym(library, "dnnl_sgemm") {
                sgemm = unsafeBitCast(symbol, to: SGEMM.self)
                setThreads = dlsym(library, "omp_set_num_threads").map { unsafeBitCast($0, to: ThreadCount.self) }
                return
            }
        }
        return nil
    }

    func product(_ x: Operands) {
        // The number belongs to the calling thread, on which our own tiles of bf16 want one.
        setThreads?(Int32(threads))
        defer { setThreads?(1) }
        let (a, b, c) = x.floats
        func letter(_ transposed: Bool) -> CChar { CChar(UInt8(ascii: transposed ? "T" : "N")) }
        let status = sgemm(
            letter(x.aTransposed), letter(x.bTransposed), x.m, x.n, x.k, 1, a, x.aPitch, b, x.bPitch, 0, c, x.n)
        precondition(status == 0, "dnnl_sgemm returned \(status)")
    }
}
