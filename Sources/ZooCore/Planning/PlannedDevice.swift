import DistributedCore
import NeuralCore
import TensorCore

/// A kind of device that plans are made for: what it computes, holds, and sends.
///
/// Speeds are what matrix products and attention reach, not the vendor's peak: `share` of it.
public struct PlannedDevice: Sendable, Hashable {
    public var name: String
    /// Bytes.
    public var memory: Int
    /// Peak FLOP/s of dense products in this precision; what MFU is a share of.
    public var peak: Double
    public var speed: DeviceSpeed
    public var link: LinkSpeed
    /// Threads its kernels run on; 1 for an accelerator.
    public var workers = 1

    /// The share of peak that a preset takes products and attention to reach.
    public static let productShare = 0.7
    public static let attentionShare = 0.5

    public static let presetNames = presets.map(\.name)

    /// A preset by name: `a100-80g` (NVLink), `a100-80g-ib` (InfiniBand), `h100-80g`, `tpu-v3`, `tpu-v4`, `tpu-v5e`.
    /// - Throws: `.usage` with the names there are.
    public static func preset(_ name: String, _ precision: NeuralCore.Precision) throws -> PlannedDevice {
        guard let preset = presets.first(where: { $0.name == name }) else {
            throw RingZooError(
                .usage, "no device '\(name)'", tried: ["presets: \(presetNames.joined(separator: ", "))"])
        }
        let peak = (precision == .float32 ? preset.float32 : preset.bfloat16) * 1e12
        return PlannedDevice(
            name: name, memory: Int(preset.memory * 1e9), peak: peak,
            speed: DeviceSpeed(
                products: productShare * peak, attention: attentionShare * peak, memory: preset.bandwidth * 1e9,
                launch: 5e-6),
            link: LinkSpeed(bandwidth: preset.link * 1e9, latency: 1e-5))
    }

    public init(name: String, memory: Int, peak: Double, speed: DeviceSpeed, link: LinkSpeed, workers: Int = 1) {
        self.name = name
        self.memory = memory
        self.peak = peak
        self.speed = speed
        self.link = link
        self.workers = workers
    }

    /// Memory in GB, peaks in TFLOP/s, memory and link bandwidth in GB/s: vendors' data sheets; link and TPU peaks as in table 2 of
    /// the paper (Liu, Zaharia, Abbeel 2023). TPUs have no float32 products of their own; theirs are bf16 with float32 sums.
    private static let presets:
        [(name: String, memory: Double, float32: Double, bfloat16: Double, bandwidth: Double, link: Double)] = [
            ("a100-80g", 80, 19.5, 312, 2_039, 300),
            ("a100-80g-ib", 80, 19.5, 312, 2_039, 12.5),
            ("h100-80g", 80, 67, 989, 3_350, 450),
            ("tpu-v3", 16, 123, 123, 900, 112),
            ("tpu-v4", 32, 275, 275, 1_228, 268),
            ("tpu-v5e", 16, 196, 196, 819, 186),
        ]
}
