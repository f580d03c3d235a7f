import COpenBLAS
import CTensorKernels

/// The kernel set that OpenBLAS took when it was loaded. It goes by a list of processors: one that is newer than the library may get a set
/// of the first years of x86-64, which multiplies at a tenth of what the processor can do (0.3.21 takes an Emerald Rapids for a Prescott).
public struct OpenBLASCore: Sendable, Hashable, CustomStringConvertible {
    /// The widest instructions that products use.
    public enum Vectors: Int, Sendable, Comparable {
        case older, avx2, avx512

        public static func < (a: Vectors, b: Vectors) -> Bool { a.rawValue < b.rawValue }

        /// Of this processor.
        static var here: Vectors {
            rz_has_products(RZ_PRODUCTS_AVX512) != 0 ? .avx512 : rz_has_products(RZ_PRODUCTS_AVX2) != 0 ? .avx2 : .older
        }
    }

    /// As OpenBLAS calls it, for example "SkylakeX".
    public let description: String

    public init(_ name: String) { description = name }

    public static var current: OpenBLASCore { OpenBLASCore(String(cString: openblas_get_corename())) }

    public var vectors: Vectors {
        switch description {
        case "SkylakeX", "Cooperlake", "SapphireRapids": .avx512
        case "Haswell", "Zen": .avx2
        default: .older
        }
    }

    /// What to set where the set leaves vectors of this processor unused; nil where it does not.
    public var advice: String? { advice(for: .here) }

    func advice(for processor: Vectors) -> String? {
        guard vectors < processor else { return nil }
        return "OpenBLAS takes this processor for a \(self), which makes float64 and the blas backend slow; "
            + "OPENBLAS_CORETYPE=\(processor == .avx512 ? "SkylakeX" : "Haswell") in the environment corrects that"
    }
}
