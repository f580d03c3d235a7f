/// The longest contexts that the paper reports for ring attention (Liu, Zaharia, Abbeel 2023, arXiv 2310.01889, table 3), beside
/// what one memory model gives for them.
///
/// The model, the same for all rows: weights, gradients and Adam's two moments in float32 are spread over all devices (16 bytes a
/// parameter, appendix B.1: fully sharded, "full precision"); each layer keeps what table 1 says ring attention needs, 6 b c h
/// elements for a block of c tokens of width h, in 4 bytes each; everything a device has is used. The paper lists powers of two, so
/// the largest power of two that fits is what is compared.
public struct PaperTable {
    public struct Row: Sendable {
        public let hardware: String
        public let devices: Int
        /// Bytes of one device.
        public let memory: Double
        public let model: String
        public let parameters: Double
        public let layers, width: Int
        /// Tokens, as printed in the paper.
        public let reported: Int

        /// Tokens that fit by the memory model, before rounding to a power of two.
        public var limit: Double {
            let left = memory - 16 * parameters / Double(devices)
            return left / Double(layers * 6 * width * 4) * Double(devices)
        }

        /// The largest power of two (times 1,024 tokens) within the limit.
        public var predicted: Int {
            var tokens = 1024
            while Double(2 * tokens) <= limit { tokens *= 2 }
            return tokens
        }

        /// How far off the prediction is, 1 where it is right, above 1 in either direction.
        public var factor: Double {
            let ratio = limit / Double(reported)
            return max(ratio, 1 / ratio)
        }
    }

    public static let rows: [Row] = [
        row("8 x A100 80 GB, NVLink", 8, 80, "3B", 512), row("8 x A100 80 GB, NVLink", 8, 80, "7B", 256),
        row("8 x A100 80 GB, NVLink", 8, 80, "13B", 128), row("32 x A100 80 GB, InfiniBand", 32, 80, "7B", 4096),
        row("32 x A100 80 GB, InfiniBand", 32, 80, "13B", 2048), row("TPUv3-512", 512, 16, "7B", 2048),
        row("TPUv3-512", 512, 16, "13B", 1024), row("TPUv4-1024", 1024, 32, "3B", 16384),
        row("TPUv4-1024", 1024, 32, "7B", 8192), row("TPUv4-1024", 1024, 32, "13B", 4096),
        row("TPUv4-1024", 1024, 32, "30B", 2048), row("TPUv5e-256", 256, 16, "3B", 4096),
        row("TPUv5e-256", 256, 16, "7B", 2048),
    ]

    /// Why some rows are far off.
    public static let outliers = """
        The 32 x A100 rows are not: there the paper has four times the tokens on each device that it has on 8 x A100 (128K instead of 32K \
        for 7B), while spreading the state over 32 instead of 8 devices frees only an eighth of a device's memory.
        """

    /// LLaMA's sizes (Touvron et al. 2023, table 2); 3B as in OpenLLaMA, whose code the paper trains with.
    private static let models: [String: (parameters: Double, layers: Int, width: Int)] = [
        "3B": (3.43e9, 26, 3200), "7B": (6.74e9, 32, 4096), "13B": (13.02e9, 40, 5120), "30B": (32.53e9, 60, 6656),
    ]

    private static func row(
        _ hardware: String, _ devices: Int, _ gigabytes: Double, _ model: String, _ thousands: Int
    ) -> Row {
        let sizes = models[model]!
        return Row(
            hardware: hardware, devices: devices, memory: gigabytes * 1e9, model: model, parameters: sizes.parameters,
            layers: sizes.layers, width: sizes.width, reported: thousands * 1024)
    }
}
