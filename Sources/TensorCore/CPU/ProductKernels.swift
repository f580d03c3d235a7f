import COpenBLAS
import CTensorKernels
import Foundation

/// Code that computes matrix products.
public enum ProductKernels: String, Sendable, CaseIterable, CustomStringConvertible {
    /// Our own, for float32 and half precision (`product_engine.h`); both give the same bits.
    case avx2, avx512
    /// OpenBLAS, with half precision widened to float32 block by block.
    case openblas
    /// oneDNN, for bfloat16 (and float32, which nothing but tests asks of it).
    case onednn

    /// What keeps these kernels from products of such factors here; nil where nothing does.
    public func unavailableReason(for dtype: DType) -> String? {
        switch self {
        case .avx2: rz_has_products(RZ_PRODUCTS_AVX2) != 0 ? nil : "this processor has no AVX2"
        case .avx512: rz_has_products(RZ_PRODUCTS_AVX512) != 0 ? nil : "this processor has no AVX-512"
        case .openblas: nil
        case .onednn: OneDNN.unavailableReason(for: dtype)
        }
    }

    /// Our kernels; nil for libraries.
    var ours: rz_product_set? {
        switch self {
        case .avx2: RZ_PRODUCTS_AVX2
        case .avx512: RZ_PRODUCTS_AVX512
        case .openblas, .onednn: nil
        }
    }

    /// With the kernel set of OpenBLAS, since bits depend on it.
    public var description: String {
        switch self {
        case .avx2, .avx512: rawValue
        case .openblas: "OpenBLAS \(CPUDevice.productKernels)"
        case .onednn: OneDNN.name
        }
    }
}

/// Which kernels compute the products of a CPU device, by the type of the factors.
public struct ProductChoice: Sendable, Hashable, CustomStringConvertible {
    public var float32, bfloat16: ProductKernels

    public init(float32: ProductKernels, bfloat16: ProductKernels) {
        (self.float32, self.bfloat16) = (float32, bfloat16)
    }

    subscript(dtype: DType) -> ProductKernels {
        switch dtype {
        case .bfloat16: bfloat16
        case .float32, .float16: float32
        case .float64, .int32, .int64, .bool: .openblas
        }
    }

    /// Whether this processor multiplies bf16 itself, which takes half the time of float32 or less and is oneDNN's alone here.
    public static var hasBFloat16Arithmetic: Bool { rz_has_bf16_arithmetic() != 0 }

    /// The best for this processor.
    public static let best = best(
        ours: [ProductKernels.avx512, .avx2].first { $0.unavailableReason(for: .float32) == nil },
        usesOneDNN: hasBFloat16Arithmetic && OneDNN.unavailableReason(for: .bfloat16) == nil)

    /// Of our own kernels the best that the processor can run, OpenBLAS where we have none: by the measured table of products
    /// (`Benchmarks/Products`, results in `Docs/Benchmarks.md`).
    static func best(ours: ProductKernels?, usesOneDNN: Bool) -> ProductChoice {
        let float32 = ours ?? .openblas
        return ProductChoice(float32: float32, bfloat16: usesOneDNN ? .onednn : float32)
    }

    /// What the environment variable RINGZOO_PRODUCTS asks for; the best where it is not set. oneDNN computes bf16 alone, and where it
    /// is not to, any other name keeps it from that.
    /// - Throws: a `RingZooError` where it names something unknown, or what this machine cannot run.
    public static func named(_ name: String?) throws -> ProductChoice {
        guard let name else { return best }
        guard let kernels = ProductKernels(rawValue: name) else {
            throw RingZooError(
                .config, "RINGZOO_PRODUCTS is '\(name)', which is unknown",
                tried: [
                    "one of these, or not setting it: "
                        + ProductKernels.allCases.map(\.rawValue).joined(separator: ", ")
                ])
        }
        if let reason = kernels.unavailableReason(for: .bfloat16) {
            throw RingZooError(
                .config, "RINGZOO_PRODUCTS is '\(name)', but \(reason)", tried: ["not setting it would work"])
        }
        return ProductChoice(float32: kernels == .onednn ? best.float32 : kernels, bfloat16: kernels)
    }

    /// Who computes which, in words: "avx2", or "float32 OpenBLAS SkylakeX, bf16 ...".
    public var description: String {
        float32 == bfloat16 ? float32.description : "float32 \(float32), bf16 \(bfloat16)"
    }

    /// - Throws: as `named`.
    public static func fromEnvironment() throws -> ProductChoice {
        try named(ProcessInfo.processInfo.environment["RINGZOO_PRODUCTS"])
    }

    /// Of all devices that are not given another. The command line refuses a wrong name before it makes a device.
    public static let standard = (try? fromEnvironment()) ?? best
}
