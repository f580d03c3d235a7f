import CAttentionKernels
import ConformanceKit

extension SplitMix64 {
    mutating func normal() -> Double {
        // The sum of 12 uniform numbers, centred: near enough to normal, and free of a library's logarithm.
        (0..<12).reduce(-6.0) { sum, _ in sum + Double.random(in: 0..<1, using: &self) }
    }

    mutating func normals(_ count: Int, spread: Double = 1) -> [Double] { (0..<count).map { _ in normal() * spread } }
    mutating func coin(_ probability: Double = 0.5) -> Bool { Double.random(in: 0..<1, using: &self) < probability }
}

/// How a test stores its inputs.
enum Stored: CaseIterable {
    case float32, float64, bfloat16, float16

    var code: rz_storage {
        switch self {
        case .float32: RZ_STORAGE_FLOAT32
        case .float64: RZ_STORAGE_FLOAT64
        case .bfloat16: RZ_STORAGE_BFLOAT16
        case .float16: RZ_STORAGE_FLOAT16
        }
    }

    var bytes: Int {
        switch self {
        case .float64: 8
        case .float32: 4
        case .bfloat16, .float16: 2
        }
    }

    /// Writes the nearest stored value and returns it exactly.
    func write(_ value: Double, to place: UnsafeMutableRawPointer) -> Double {
        switch self {
        case .float64:
            place.storeBytes(of: value, as: Double.self)
            return value
        case .float32:
            place.storeBytes(of: Float(value), as: Float.self)
            return Double(Float(value))
        case .bfloat16:
            let bits = (Float(value).bitPattern &+ 0x8000) & 0xffff_0000
            place.storeBytes(of: UInt16(bits >> 16), as: UInt16.self)
            return Double(Float(bitPattern: bits))
        case .float16:
            let (bits, exact) = nearestHalf(value)
            place.storeBytes(of: bits, as: UInt16.self)
            return exact
        }
    }
}

/// The nearest IEEE half (not all platforms have Float16), for magnitudes below 65504: spacing 2^-24 under 2^-14, else 2^-10 of
/// the power of two below.
func nearestHalf(_ value: Double) -> (bits: UInt16, exact: Double) {
    let sign: UInt16 = value.sign == .minus ? 0x8000 : 0
    let magnitude = value.magnitude
    let spacing = magnitude < 0x1p-14 ? 0x1p-24 : Double(sign: .plus, exponent: magnitude.exponent - 10, significand: 1)
    let exact = (magnitude / spacing).rounded() * spacing
    let bits: UInt16
    if exact < 0x1p-14 {
        bits = UInt16(exact / 0x1p-24)
    } else {
        bits = UInt16(exact.exponent + 15) << 10 | UInt16((exact.significand - 1) * 1024)
    }
    return (sign | bits, value.sign == .minus ? -exact : exact)
}

/// Values [batch, heads, tokens, size] in the memory a kernel reads, and exactly as it reads them.
final class StoredTensor {
    let values: [Double]  // contiguous [batch, heads, tokens, size], after rounding to the storage
    let memory: UnsafeMutableRawPointer
    let stored: Stored
    let batchStride, headStride, tokenStride: Int

    init(
        _ values: [Double], _ shape: (batch: Int, heads: Int, tokens: Int, size: Int), _ stored: Stored,
        tokensFirst: Bool
    ) {
        let (batch, heads, tokens, size) = shape
        precondition(values.count == batch * heads * tokens * size)
        // Tokens first is [B, T, H, D + 3]: what a projection leaves, with a gap that must not be read as data.
        let pitch = tokensFirst ? size + 3 : size
        tokenStride = tokensFirst ? heads * pitch : pitch
        headStride = tokensFirst ? pitch : tokens * pitch
        batchStride = heads * tokens * pitch
        self.stored = stored
        let count = batch * batchStride
        memory = .allocate(byteCount: max(1, count * stored.bytes), alignment: 8)
        // NaN in the gaps.
        memory.initializeMemory(as: UInt8.self, repeating: 0xff, count: max(1, count * stored.bytes))
        var exact = values
        var index = 0
        for b in 0..<batch {
            for h in 0..<heads {
                for t in 0..<tokens {
                    let start = b * batchStride + h * headStride + t * tokenStride
                    for d in 0..<size {
                        exact[index] = stored.write(values[index], to: memory + (start + d) * stored.bytes)
                        index += 1
                    }
                }
            }
        }
        self.values = exact
    }

    deinit { memory.deallocate() }

    /// The tensor from a token on.
    func view(from token: Int = 0) -> rz_attention_tensor {
        rz_attention_tensor(
            data: UnsafeRawPointer(memory + token * tokenStride * stored.bytes), storage: stored.code,
            batch_stride: Int64(batchStride), head_stride: Int64(headStride), token_stride: Int64(tokenStride))
    }
}

/// One attention problem with its inputs, in a form both the oracle and the kernels read.
struct AttentionCase {
    var batch = 1
    var heads = 1
    var kvHeads = 1
    var queries = 1
    var keys = 1
    var size = 8
    var spread = 1.0  // of the logits, about
    var queryPositions: [Int64] = []
    var keyPositions: [Int64] = []
    var causal = false
    var back: Int64 = -1
    var ahead: Int64 = -1
    var queryDocuments: [Int32]?
    var keyDocuments: [Int32]?
    var documentsPerBatch = false
    var slopes: [Double]?
    var softCap = 0.0
    var bias: [Double]?
    var biasStrides: [Int64] = [0, 0, 0, 0]
    var dropout = 0.0
    var seed: UInt64 = 0
    var stored = Stored.float32
    var tokensFirst = false
    var q: [Double] = []
    var k: [Double] = []
    var v: [Double] = []
    var dout: [Double] = []

    var isScaleNegative = false

    var scale: Double { (isScaleNegative ? -1 : 1) / Double(size).squareRoot() }
    var group: Int { heads / kvHeads }

    /// Positions 0, 1, 2, ..., queries at the end of the keys; normal inputs.
    mutating func fill(_ random: inout SplitMix64) {
        if queryPositions.isEmpty { queryPositions = (0..<queries).map { Int64($0 + max(0, keys - queries)) } }
        if keyPositions.isEmpty { keyPositions = (0..<keys).map { Int64($0) } }
        q = random.normals(batch * heads * queries * size, spread: spread)
        k = random.normals(batch * kvHeads * keys * size)
        v = random.normals(batch * kvHeads * keys * size)
        dout = random.normals(batch * heads * queries * size)
    }

    /// This problem, which has none, and the same with each term of the mask alone, by name.
    func withEachMaskTerm(_ random: inout SplitMix64) -> [(name: String, problem: AttentionCase)] {
        var problems = [(name: "plain", problem: self)]
        func add(_ name: String, _ change: (inout AttentionCase) -> Void) {
            var problem = self
            change(&problem)
            problems.append((name, problem))
        }
        add("causal") { $0.causal = true }
        add("back") { $0.back = 17 }
        add("ahead") { $0.ahead = 0 }
        add("both") { ($0.back, $0.ahead) = (5, 9) }
        add("documents") {
            $0.queryDocuments = (0..<queries).map { Int32($0 / 90) }
            $0.keyDocuments = (0..<keys).map { Int32($0 / 50) }
        }
        add("slopes") { $0.slopes = (0..<heads).map { 0.5 / Double(1 << (3 * $0)) } }
        add("cap") { $0.softCap = 2 }
        add("bias") { $0.addBias(&random) }
        add("dropout") { ($0.dropout, $0.seed) = (0.3, 0x1234_5678_9abc_def0) }
        add("negative scale") { ($0.isScaleNegative, $0.causal) = (true, true) }
        add("scattered keys") {
            $0.keyPositions = (0..<keys).map { Int64($0) }.shuffled(using: &random)
            $0.causal = true
        }
        return problems
    }

    /// A random problem: every option of the mask descriptor is drawn, so that all combinations come up.
    static func random(_ seed: UInt64, stored: Stored = .float32) -> AttentionCase {
        var random = SplitMix64(seed: seed)
        var c = AttentionCase()
        c.stored = stored
        c.batch = Int.random(in: 1...2, using: &random)
        c.kvHeads = Int.random(in: 1...2, using: &random)
        c.heads = c.kvHeads * Int.random(in: 1...3, using: &random)
        c.queries = Int.random(in: 1...(random.coin() ? 20 : 230), using: &random)
        c.keys = Int.random(in: 1...(random.coin(0.3) ? 20 : 400), using: &random)
        c.size = [1, 5, 16, 33, 64, 80, 128].randomElement(using: &random)!
        c.spread = [1, 1, 6].randomElement(using: &random)!
        c.tokensFirst = random.coin()
        let span = Int64(max(c.queries, c.keys))
        switch Int.random(in: 0..<4, using: &random) {
        case 0:
            break  // contiguous
        case 1:  // striped, as on one rank of three
            c.queryPositions = (0..<c.queries).map { Int64($0 * 3 + 1) }
            c.keyPositions = (0..<c.keys).map { Int64($0 * 3 + 2) }
        case 2:  // two runs, as in a zigzag
            c.queryPositions = (0..<c.queries).map { Int64($0 < c.queries / 2 ? $0 : $0 + c.keys) }
            c.keyPositions = (0..<c.keys).map { Int64($0 < c.keys / 3 ? $0 : $0 + c.queries / 2) }
        default:  // any order
            c.queryPositions = (0..<c.queries).map { _ in Int64.random(in: 0..<(2 * span), using: &random) }
            c.keyPositions = (0..<c.keys).map { Int64($0) * 2 }.shuffled(using: &random)
        }
        c.causal = random.coin()
        if random.coin(0.3) { c.back = Int64.random(in: 0...span, using: &random) }
        if random.coin(0.3) { c.ahead = Int64.random(in: 0...(span / 2), using: &random) }
        if random.coin(0.3) {
            c.documentsPerBatch = random.coin()
            let count = c.documentsPerBatch ? c.batch : 1
            let length = Int.random(in: 1...150, using: &random)
            func documents(_ tokens: Int) -> [Int32] {
                (0..<(count * tokens)).map { Int32(($0 % tokens + $0 / tokens * 7) / length) }
            }
            c.queryDocuments = documents(c.queries)
            c.keyDocuments = documents(c.keys)
        }
        if random.coin(0.3) { c.slopes = (0..<c.heads).map { 0.25 / Double($0 + 1) } }
        if random.coin(0.3) { c.softCap = [0.7, 5, 30].randomElement(using: &random)! }
        c.fill(&random)
        if random.coin(0.3) { c.addBias(&random) }
        if random.coin(0.25) {
            c.dropout = [0.1, 0.5].randomElement(using: &random)!
            c.seed = random.next()
        }
        return c
    }

    /// A normal bias that broadcasts over random axes.
    mutating func addBias(_ random: inout SplitMix64) {
        let extents = [batch, heads, queries, Int(keyPositions.max()!) + 1].map { random.coin(0.7) ? $0 : 1 }
        var stride = 1
        for axis in (0..<4).reversed() {
            biasStrides[axis] = extents[axis] == 1 ? 0 : Int64(stride)
            stride *= extents[axis]
        }
        bias = random.normals(stride)
    }

    func biasIndex(_ b: Int, _ h: Int, _ i: Int, _ j: Int) -> Int {
        b * Int(biasStrides[0]) + h * Int(biasStrides[1]) + i * Int(biasStrides[2])
            + Int(keyPositions[j]) * Int(biasStrides[3])
    }

    func sees(_ b: Int, _ i: Int, _ j: Int) -> Bool {
        let from = queryPositions[i]
        let to = keyPositions[j]
        if causal && to > from { return false }
        if back >= 0 && to < from - back { return false }
        if ahead >= 0 && to > from + ahead { return false }
        if let queryDocuments, let keyDocuments {
            let row = documentsPerBatch ? b : 0
            return queryDocuments[row * queries + i] == keyDocuments[row * keys + j]
        }
        return true
    }
}
