// swift-tools-version: 6.1
import PackageDescription

// Dependency runs one way (`Docs/Architecture.md`):
//   ringzoo -> ZooStandard -> {Models, Plugins} -> ZooCore -> {TrainingCore, NeuralCore, CheckpointCore, DistributedCore, DataCore}
//   -> AttentionCore -> TensorCore -> C targets
// `Scripts/check-imports` holds the imports to this.

let argumentParser = Target.Dependency.product(name: "ArgumentParser", package: "swift-argument-parser")
let yams = Target.Dependency.product(name: "Yams", package: "Yams")

func core(_ name: String, _ dependencies: [Target.Dependency]) -> Target {
    .target(name: name, dependencies: dependencies, path: "Sources/\(name)")
}

func plugin(_ name: String, _ dependencies: [Target.Dependency]) -> Target {
    .target(name: name, dependencies: dependencies, path: "Plugins/\(name)", exclude: ["README.md"])
}

func model(_ name: String, _ dependencies: [Target.Dependency]) -> Target {
    .target(name: name, dependencies: dependencies, path: "Models/\(name)", exclude: ["README.md"])
}

func tests(of name: String, _ dependencies: [Target.Dependency] = [], fixtures: Bool = false) -> Target {
    .testTarget(
        name: "\(name)Tests", dependencies: [.target(name: name)] + dependencies, path: "Tests/\(name)Tests",
        exclude: fixtures ? ["Fixtures"] : [])
}

let package = Package(
    name: "RingZoo",
    platforms: [.macOS(.v15)],
    products: [
        .executable(name: "ringzoo", targets: ["ringzoo"]),
        .library(name: "ZooCore", targets: ["ZooCore"]),
        .library(name: "ZooStandard", targets: ["ZooStandard"]),
        .library(name: "ConformanceKit", targets: ["ConformanceKit"]),
    ],
    dependencies: [
        .package(url: "https://github.com/apple/swift-argument-parser", from: "1.5.0"),
        .package(url: "https://github.com/jpsim/Yams", from: "6.0.0"),
    ],
    targets: [
        // C: kernels with run-time dispatch, and the system libraries.
        .target(name: "CTensorKernels", path: "Sources/CTensorKernels"),
        .target(name: "CAttentionKernels", path: "Sources/CAttentionKernels"),
        .systemLibrary(
            name: "COpenBLAS", path: "Sources/COpenBLAS", pkgConfig: "openblas",
            providers: [.apt(["libopenblas-dev"])]),
        .systemLibrary(
            name: "CHDF5", path: "Sources/CHDF5", pkgConfig: "hdf5-serial", providers: [.apt(["libhdf5-dev"])]),
        .target(name: "CHDF5Shim", dependencies: ["CHDF5"], path: "Sources/CHDF5Shim"),

        .target(name: "CDigest", path: "Sources/CDigest"),
        .target(name: "CMPIShim", path: "Sources/CMPIShim"),
        .target(name: "COneDNNShim", path: "Sources/COneDNNShim"),
        .target(name: "CVersion", path: "Sources/CVersion"),

        // The core, from the bottom up.
        core("TensorCore", ["CTensorKernels", "COpenBLAS", "COneDNNShim"]),
        core("AttentionCore", ["TensorCore"]),
        core("BlockwiseAttention", ["AttentionCore", "CAttentionKernels", "CTensorKernels"]),
        core("DistributedCore", ["AttentionCore", "CTensorKernels", "CDigest"]),
        core("NeuralCore", ["AttentionCore", "DistributedCore"]),
        core("CheckpointCore", ["TensorCore", "CHDF5Shim", "CDigest"]),
        core("DataCore", ["TensorCore"]),
        core("TrainingCore", ["NeuralCore", "CheckpointCore", "DistributedCore", "DataCore", "BlockwiseAttention"]),
        core("ZooCore", ["TrainingCore", "CVersion", yams]),
        core("ConformanceKit", ["AttentionCore", "DistributedCore", "NeuralCore"]),

        // Backends and models; each is one folder that knows the core and nothing of its neighbours.
        plugin("CPUAttention", ["ZooCore", "BlockwiseAttention"]),
        plugin("BLASAttention", ["ZooCore", "BlockwiseAttention", "CAttentionKernels", "COpenBLAS"]),
        plugin("RingAttention", ["ZooCore"]),
        plugin("GatherAttention", ["ZooCore"]),
        plugin("TreeAttention", ["ZooCore"]),
        plugin("UlyssesAttention", ["ZooCore"]),
        plugin("MeshAttention", ["ZooCore"]),
        plugin("MPICommunicator", ["ZooCore", "CMPIShim"]),
        model("Llama", ["ZooCore"]),

        core(
            "ZooStandard",
            [
                "CPUAttention", "BLASAttention", "RingAttention", "GatherAttention", "UlyssesAttention",
                "MeshAttention",
                "TreeAttention", "MPICommunicator", "Llama",
            ]),
        .executableTarget(
            name: "ringzoo",
            dependencies: ["ZooStandard", "MPICommunicator", "BlockwiseAttention", argumentParser],
            path: "Sources/ringzoo"),

        .executableTarget(
            name: "context-law", dependencies: ["ZooStandard", "MPICommunicator", argumentParser],
            path: "Benchmarks/ContextLaw"),
        .executableTarget(
            name: "products", dependencies: ["BlockwiseAttention", "COpenBLAS", argumentParser],
            path: "Benchmarks/Products"),
        .executableTarget(
            name: "slow-link",
            dependencies: ["ConformanceKit", "CPUAttention", "RingAttention", "BlockwiseAttention", argumentParser],
            path: "Benchmarks/SlowLink"),

        // The ranks that MPICommunicatorTests starts with mpirun.
        .executableTarget(
            name: "mpi-ranks", dependencies: ["MPICommunicator", "ConformanceKit", "ZooStandard"],
            path: "Tests/MPIRanks"),

        tests(of: "TensorCore", ["ConformanceKit"]),
        tests(of: "AttentionCore", ["ConformanceKit"]),
        tests(of: "DistributedCore", ["ConformanceKit"]),
        tests(of: "NeuralCore", ["ConformanceKit"]),
        tests(of: "CheckpointCore", fixtures: true),
        tests(of: "DataCore", fixtures: true),
        tests(of: "TrainingCore", ["ZooStandard"]),
        tests(of: "ZooCore"),
        tests(of: "CAttentionKernels", ["CTensorKernels", "ConformanceKit"]),
        tests(of: "CPUAttention", ["ConformanceKit"]),
        tests(of: "BLASAttention", ["ConformanceKit"]),
        tests(
            of: "RingAttention",
            ["ConformanceKit", "CPUAttention", "BLASAttention", "GatherAttention", "UlyssesAttention", "MeshAttention"]),
        tests(of: "GatherAttention", ["CPUAttention"]),
        tests(of: "UlyssesAttention", ["ConformanceKit", "CPUAttention"]),
        tests(of: "MeshAttention", ["ConformanceKit", "CPUAttention", "RingAttention", "UlyssesAttention"]),
        tests(of: "TreeAttention", ["ConformanceKit", "CPUAttention", "BLASAttention"]),
        tests(of: "MPICommunicator", ["ConformanceKit", "CheckpointCore", "mpi-ranks", "ringzoo"]),
        tests(
            of: "Llama",
            ["ConformanceKit", "ZooStandard", "CPUAttention", "RingAttention", "TreeAttention", "TrainingCore"]),
        tests(of: "ringzoo", ["ConformanceKit", "ZooStandard", "mpi-ranks"]),
    ],
    swiftLanguageModes: [.v6]
)
