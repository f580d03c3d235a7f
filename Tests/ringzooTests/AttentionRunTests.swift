import AttentionCore
import CheckpointCore
import DistributedCore
import Foundation
import TensorCore
import Testing

/// `attention run` on tensors from a file equals the float64 oracle.
@Suite struct AttentionRunTests {
    struct Case: Sendable, CustomTestStringConvertible {
        var name: String
        var arguments: [String]
        var mask = AttentionMask()
        var scale: Double?
        var extras: Set<String> = []
        var dtype = DType.float32
        var testDescription: String { name }
    }

    static let B = 2
    static let H = 4
    static let Hkv = 2
    static let T = 29
    static let D = 8

    static let ring = ["--backend", "ring", "--local", "cpu", "--ranks"]
    static let causal = ["--mask", "causal"]
    static let cases: [Case] = [
        Case(name: "cpu, full", arguments: ["--backend", "cpu"]),
        Case(name: "blas, causal", arguments: ["--backend", "blas"] + causal, mask: .causal),
        Case(name: "auto, scale", arguments: ["--scale", "0.7"], scale: 0.7),
        Case(name: "ring of 1, causal", arguments: ring + ["1"] + causal, mask: .causal),
        Case(name: "ring of 3, zigzag, causal", arguments: ring + ["3"] + causal, mask: .causal),
        Case(
            name: "ring of 4 over blas, striped, causal",
            arguments: ["--backend", "ring", "--local", "blas", "--ranks", "4", "--layout", "striped"] + causal,
            mask: .causal),
        Case(
            name: "ring of 3, contiguous, window both ways",
            arguments: ring + ["3", "--layout", "contiguous", "--window", "6,3"],
            mask: AttentionMask(causal: false, window: .init(back: 6, ahead: 3))),
        Case(
            name: "ring of 4, causal window",
            arguments: ring + ["4", "--window", "5"] + causal,
            mask: AttentionMask(causal: true, window: .init(back: 5))),
        Case(
            name: "window alone looks back", arguments: ["--backend", "cpu", "--window", "5"],
            mask: AttentionMask(causal: false, window: .init(back: 5))),
        Case(
            name: "ring of 3, documents, causal, gradients", arguments: ring + ["3", "--grad"] + causal, mask: .causal,
            extras: ["documents", "dout"]),
        Case(
            name: "ring of 4, bias, sinks, ALiBi, cap, gradients",
            arguments: ring + ["4", "--soft-cap", "5", "--grad"] + causal,
            mask: AttentionMask(causal: true, softCap: 5), extras: ["bias", "sinks", "alibi", "dout"]),
        Case(
            name: "ring of 3, one of which has one token, bias, gradients",
            arguments: ring + ["3", "--layout", "contiguous", "--shares", "14,14,1", "--grad"] + causal,
            mask: .causal, extras: ["bias", "dout"]),
        Case(
            name: "float64, gradients", arguments: ["--backend", "cpu", "--grad"], extras: ["dout"], dtype: .float64),
        Case(name: "bf16", arguments: ring + ["3"] + causal, mask: .causal, dtype: .bfloat16),
    ]

    private static func inputs(_ test: Case, on device: any Device) -> [String: Tensor] {
        let wide: DType = test.dtype == .float64 ? .float64 : .float32
        func normal(_ shape: [Int], _ key: UInt64, _ spread: Double = 1) -> Tensor {
            Tensor.random(.normal, shape, wide, key: key, on: device) * spread
        }
        var tensors = [
            "q": normal([B, H, T, D], 1, 2).cast(to: test.dtype), "k": normal([B, Hkv, T, D], 2).cast(to: test.dtype),
            "v": normal([B, Hkv, T, D], 3).cast(to: test.dtype),
        ]
        if test.extras.contains("dout") { tensors["dout"] = normal([B, H, T, D], 4).cast(to: test.dtype) }
        if test.extras.contains("documents") {
            tensors["documents"] = Tensor((0..<T).map { Int32($0 < 7 ? 0 : $0 < 8 ? 1 : 2) }, [T], on: device)
        }
        if test.extras.contains("bias") { tensors["bias"] = normal([1, H, T, T], 5) }
        if test.extras.contains("sinks") { tensors["sinks"] = normal([H], 6) }
        if test.extras.contains("alibi") {
            tensors["alibi"] = Tensor([0.5, 0.25, 0.125, 0] as [Float], [H], on: device)
        }
        return tensors
    }

    private static func truth(_ test: Case, _ tensors: [String: Tensor]) -> ReferenceAttention.Result {
        var mask = test.mask
        if let documents = tensors["documents"]?.reshaped([1, T]) {
            mask.documents = .init(queries: documents, keys: documents)
        }
        mask.bias = tensors["bias"]
        mask.sinks = tensors["sinks"]
        mask.alibiSlopes = tensors["alibi"]?.doubles
        let positions = Positions.contiguous(count: T)
        let problem = AttentionProblem(
            heads: H, keyHeads: Hkv, headSize: D, scale: test.scale, dtype: test.dtype, queries: positions,
            keys: positions, mask: mask)
        return ReferenceAttention.compute(
            q: tensors["q"]!, k: tensors["k"]!, v: tensors["v"]!, dOut: tensors["dout"], problem)
    }

    @Test(arguments: cases)
    func runEqualsTheOracle(_ test: Case) throws {
        let folder = try TemporaryFolder()
        let tensors = Self.inputs(test, on: CPUDevice(threads: 1))
        try HDF5File.write(
            folder / "in.h5",
            tensors: tensors.sorted { $0.key < $1.key }.map { name, tensor in
                TensorSource(TensorInfo(name: name, shape: tensor.shape, dtype: tensor.dtype)) { sink in
                    try tensor.withBytes { try sink($0) }
                }
            })
        let result = try Tool.run(["attention", "run", "in.h5", "out.h5"] + test.arguments, in: folder)
        #expect(result.code == 0 && result.text == "", "\(result.errors)")
        let file = try HDF5File.readForeign(folder / "out.h5")
        let truth = Self.truth(test, tensors)
        var expected = [("out", truth.out), ("lse", truth.lse)]
        if test.extras.contains("dout") {
            expected += [("dq", truth.dQ), ("dk", truth.dK), ("dv", truth.dV)]
            if test.extras.contains("bias") { expected.append(("dbias", truth.dBias)) }
            if test.extras.contains("sinks") { expected.append(("dsinks", truth.dSinks)) }
        }
        #expect(Set(file.tensors.map(\.name)) == Set(expected.map(\.0)))
        let wide: DType = test.dtype == .float64 ? .float64 : .float32
        #expect(file.tensors.allSatisfy { $0.dtype == wide })
        for (name, reference) in expected {
            let found = try doubles(name, of: file)
            try #require(found.count == reference.count, "\(name)")
            let m = max(1, reference.lazy.filter(\.isFinite).map(abs).max() ?? 0)
            let s = max(1, truth.logitDeviation)
            // Correctness bar 1; inputs in bf16 are read exactly, but the kernel rounds probabilities to 8 bits.
            let (absolute, relative) =
                switch test.dtype {
                case .float64: (1e-12 * s * m, 0.0)
                case .bfloat16: (2e-2 * s * m, 2e-2)
                default: (2e-6 * s * m, 1e-5)
                }
            let outside = zip(found, reference).filter { $0 != $1 && !(abs($0 - $1) <= absolute + relative * abs($1)) }
            #expect(outside.isEmpty, "\(name): \(outside.count) of \(found.count), such as \(outside[0])")
        }
    }

    @Test func badInputsAreNamed() throws {
        let folder = try TemporaryFolder()
        try Tool.fail(66, ["in.h5"], "attention", "run", "in.h5", "out.h5", in: folder)
        try folder.write("text.h5", "no HDF5 at all")
        try Tool.fail(65, ["text.h5"], "attention", "run", "text.h5", "out.h5", in: folder)
        let device = CPUDevice(threads: 1)
        func write(_ shapes: [String: [Int]]) throws {
            try HDF5File.write(
                folder / "in.h5",
                tensors: shapes.sorted { $0.key < $1.key }.map { name, shape in
                    let tensor = Tensor.ones(shape, on: device)
                    return TensorSource(TensorInfo(name: name, shape: shape, dtype: .float32)) { sink in
                        try tensor.withBytes { try sink($0) }
                    }
                })
        }
        try write(["q": [1, 2, 4, 8], "k": [1, 2, 4, 8]])
        try Tool.fail(65, ["no data set /v"], "attention", "run", "in.h5", "out.h5", in: folder)
        try write(["q": [1, 3, 4, 8], "k": [1, 2, 4, 8], "v": [1, 2, 4, 8]])
        try Tool.fail(65, ["do not fit"], "attention", "run", "in.h5", "out.h5", in: folder)
        try write(["q": [1, 2, 4, 8], "k": [1, 2, 4, 8], "v": [1, 2, 4, 8]])
        try Tool.fail(65, ["/dout"], "attention", "run", "in.h5", "out.h5", "--grad", in: folder)
        try Tool.fail(78, ["nix"], "attention", "run", "in.h5", "out.h5", "--backend", "nix", in: folder)
        try Tool.fail(
            78, ["ring"], "attention", "run", "in.h5", "out.h5", "--backend", "cpu", "--ranks", "2", in: folder)
        try Tool.fail(64, ["--ranks is 0"], "attention", "run", "in.h5", "out.h5", "--ranks", "0", in: folder)
        #expect(folder.names == ["in.h5", "text.h5"])
    }
}
