import TensorCore

/// SplitMix64 (Steele, Lea, Flood 2014): the tests' own numbers, independent of the generator under test.
struct SampleGenerator: RandomNumberGenerator {
    var state: UInt64

    mutating func next() -> UInt64 {
        state &+= 0x9e37_79b9_7f4a_7c15
        var z = state
        z = (z ^ (z >> 30)) &* 0xbf58_476d_1ce4_e5b9
        z = (z ^ (z >> 27)) &* 0x94d0_49bb_1331_11eb
        return z ^ (z >> 31)
    }
}

func sampleValues(_ count: Int, seed: UInt64 = 1, in range: ClosedRange<Double> = -2...2) -> [Double] {
    var generator = SampleGenerator(state: seed)
    return (0..<count).map { _ in Double.random(in: range, using: &generator) }
}

/// Random values in `range`, float64 rounded to `dtype`.
func sample(
    _ shape: [Int], _ dtype: DType = .float64, seed: UInt64 = 1, in range: ClosedRange<Double> = -2...2,
    on device: any Device
) -> Tensor {
    Tensor(sampleValues(shape.reduce(1, *), seed: seed, in: range), shape, on: device).cast(to: dtype)
}

/// Every index of a shape, row-major.
func places(_ shape: [Int]) -> [[Int]] {
    shape.reduce([[]]) { places, extent in places.flatMap { place in (0..<extent).map { place + [$0] } } }
}

/// A plain row-major float64 array: what the tests compute references with, without any code of the tensors.
struct HostArray {
    var shape: [Int]
    var values: [Double]

    init(_ shape: [Int], _ value: ([Int]) -> Double) {
        self.shape = shape
        values = places(shape).map(value)
    }

    /// The values as stored, so that a reference starts from the rounded inputs.
    init(_ tensor: Tensor) {
        shape = tensor.shape
        values = tensor.doubles
    }

    subscript(_ place: [Int]) -> Double {
        var offset = 0
        for (extent, index) in zip(shape, place) { offset = offset * extent + index }
        return values[offset]
    }

    /// Read with broadcasting: leading places are dropped and axes of extent 1 repeat.
    func broadcast(_ place: [Int]) -> Double {
        self[zip(shape, place.suffix(shape.count)).map { extent, index in extent == 1 ? 0 : index }]
    }
}

/// The same logical values in memory orders that an operation may meet.
enum Layout: String, CaseIterable, Sendable {
    /// Row-major; axes reversed in memory; every second element of a longer row; a window into a larger tensor.
    case contiguous, reversed, stepped, window

    func arrange(_ x: Tensor) -> Tensor {
        if x.rank == 0 { return x }
        switch self {
        case .contiguous: return x.contiguous()
        case .reversed:
            let order = Array((0..<x.rank).reversed())
            return x.permuted(order).contiguous().permuted(order)
        case .stepped:
            let pair = x.expanded(axis: -1)
            return Tensor.concatenate([pair, pair], axis: -1).slice(axis: -1, 1..<2).reshaped(x.shape)
        case .window:
            let axis = x.rank - 1
            let border = Tensor.full(Array(x.shape.dropLast()) + [3], 7, x.dtype, on: x.device)
            return Tensor.concatenate([border, x, border], axis: axis).slice(axis: axis, 3..<3 + x.shape[axis])
        }
    }
}

extension Tensor {
    /// The bytes of the values, for comparisons of bits.
    var bytes: [UInt8] { withBytes { Array($0) } }
}
