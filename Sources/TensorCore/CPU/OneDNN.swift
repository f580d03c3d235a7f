import COneDNNShim

/// oneDNN, where the system has it: products in the bf16 arithmetic of processors that have some. Never required.
public enum OneDNN {
    /// Why it cannot be used; nil where it can.
    public static let unavailableReason: String? = {
        var reasons: [String] = []
        for name in ["libdnnl.so.3", "libdnnl.so.2"] {
            guard let reason = rz_onednn_open(name) else { return nil }
            reasons.append("\(name): \(String(cString: reason))")
        }
        return "oneDNN was not found (Debian: libdnnl2): " + reasons.joined(separator: "; ")
    }()

    /// Why it has no products of these factors on this processor; nil where it has.
    public static func unavailableReason(for dtype: DType) -> String? {
        if let unavailableReason { return unavailableReason }
        guard let code = dtype.oneDNNCode, rz_onednn_has(code, Int32(RZ_ONEDNN_F32)) != 0,
            rz_onednn_has(code, code) != 0
        else { return "\(name) has no products of \(dtype) for this processor" }
        return nil
    }

    /// "oneDNN 2.6.3".
    public static var name: String { "oneDNN" + (rz_onednn_version().map { " " + String(cString: $0) } ?? "") }
}

extension DType {
    fileprivate var oneDNNCode: Int32? {
        switch self {
        case .float32: Int32(RZ_ONEDNN_F32)
        case .bfloat16: Int32(RZ_ONEDNN_BF16)
        case .float64, .float16, .int32, .int64, .bool: nil
        }
    }
}

/// One tile of C by oneDNN, on the calling thread.
struct OneDNNProduct {
    let rows, columns, depth: Int
    let a, b, c: ProductMatrix
    let accumulate: Bool

    func run() {
        let status = rz_onednn_product(
            Int64(rows), Int64(columns), Int64(depth), a.dtype.oneDNNCode!, a.forOneDNN, b.forOneDNN,
            c.dtype.oneDNNCode!, c.address, Int64(c.rowStride), accumulate ? 1 : 0)
        if status != 0 {
            fatalError(
                "matmul: \(OneDNN.name) failed with status \(status) on a tile of \(rows) x \(columns) x \(depth)")
        }
    }
}

extension ProductMatrix {
    fileprivate var forOneDNN: rz_onednn_matrix {
        rz_onednn_matrix(address: address, row: Int64(rowStride), column: Int64(columnStride))
    }
}
