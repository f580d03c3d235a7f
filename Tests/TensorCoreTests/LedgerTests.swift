import Foundation
import TensorCore
import Testing

@Suite struct LedgerTests {
    @Test func kindsAreCountedApartAndAddUp() throws {
        let device = CPUDevice(threads: 1)
        let network = Network(width: 16, on: device)
        let bytes = network.parameterCount * 4
        #expect(device.ledger.live(.parameters) == bytes)
        #expect(device.ledger.live() == 0)
        do {
            let x = sample([8, 16], .float32, on: device)
            let working = device.ledger.live()
            let (value, gradient) = try valueAndGradient(at: network) { $0(x).squared.sum() }
            #expect(device.ledger.live(.gradients) == bytes)
            #expect(device.ledger.live(.parameters) == bytes)
            #expect(device.ledger.live() == working + value.byteCount)
            withExtendedLifetime((x, value, gradient)) {}
        }
        #expect(device.ledger.live(.gradients) == 0)
        #expect(device.ledger.live() == 0)
        #expect(device.ledger.live(.parameters) == bytes)
        #expect(device.ledger.peak(.gradients) == bytes)
        #expect(device.ledger.peak() > 0)
        device.ledger.resetPeak()
        #expect(device.ledger.peak() == 0 && device.ledger.peak(.parameters) == bytes)
        withExtendedLifetime(network) {}
    }

    struct Pair: Module {
        var a, b: Tensor
        mutating func visit(_ visitor: inout ParameterVisitor) {
            visitor("a", &a)
            visitor("b", &b)
        }
    }

    /// Pullbacks may hand out one tensor twice, a repeated number or a window into something larger; an optimizer that
    /// consumes gradients in place must not meet any of those.
    @Test func gradientsOfAModelAreDenseAndOwnTheirBytes() throws {
        let device = CPUDevice(threads: 1)
        let pair = Pair(
            a: sample([3, 4], .float32, seed: 1, on: device), b: sample([3, 4], .float32, seed: 2, on: device))
        let bodies: [(Pair) -> Tensor] = [
            { ($0.a + $0.b).squared.sum() }, { $0.a.sum() + $0.b.sum() },
            { Tensor.concatenate([$0.a, $0.b], axis: 1).squared.sum() },
            { ($0.a.transposed().contiguous().squared + $0.b.reshaped([4, 3])).sum() },
        ]
        for body in bodies {
            let (_, gradient) = try valueAndGradient(at: pair, body)
            #expect(gradient.a.storage !== gradient.b.storage)
            for tensor in [gradient.a, gradient.b] {
                #expect(tensor.isContiguous && tensor.storage.byteCount == tensor.byteCount)
            }
            #expect(device.ledger.live(.gradients) == 2 * 48)
            let plain = try valueAndGradient(at: [pair.a, pair.b]) { body(Pair(a: $0[0], b: $0[1])) }.gradients
            #expect(gradient.a.doubles == plain[0].doubles && gradient.b.doubles == plain[1].doubles)
        }
    }

    @Test func budgetFailureSurfacesOnceAndTheDeviceWorksAfterwards() throws {
        let device = CPUDevice(threads: 1)
        let x = Tensor.ones([1000], on: device)
        let body: ([Tensor]) throws -> Tensor = { $0[0].silu.squared.sum() }
        device.ledger.budget = 10_000
        let error = #expect(throws: RingZooError.self) { try valueAndGradient(at: [x], body) }
        #expect(error?.code == .failed)
        #expect(error?.message.contains("10000 bytes") == true, "\(error?.message ?? "")")
        #expect(error?.tried.isEmpty == false)
        device.ledger.budget = nil
        #expect(throws: Never.self) { try valueAndGradient(at: [x], body) }
        device.ledger.budget = 1 << 20
        #expect(throws: Never.self) { try valueAndGradient(at: [x], body) }
    }

    @Test func budgetBindsWorkingMemoryAlone() throws {
        let device = CPUDevice(threads: 1)
        device.ledger.budget = 100
        let weights = Tensor.zeros([1000], on: device, kind: .parameters)
        #expect(throws: Never.self) { try device.ledger.checkFailure() }
        let working = Tensor.zeros([1000], on: device)
        #expect(throws: RingZooError.self) { try device.ledger.checkFailure() }
        #expect(throws: Never.self) { try device.ledger.checkFailure() }
        withExtendedLifetime((weights, working)) {}
    }

    @Test func firstFailureStaysUntilItIsReported() {
        let ledger = MemoryLedger()
        ledger.fail(RingZooError(.failed, "first"))
        ledger.fail(RingZooError(.failed, "second"))
        let error = #expect(throws: RingZooError.self) { try ledger.checkFailure() }
        #expect(error?.message == "first")
        #expect(throws: Never.self) { try ledger.checkFailure() }
    }

    @Test func secondStepTakesNothingNewFromTheSystem() throws {
        let device = CPUDevice(threads: 2)
        let network = Network(width: 64, on: device)
        let x = sample([300, 64], .float32, on: device)
        func step() throws -> Double { try valueAndGradient(at: network) { $0(x).squared.mean() }.value.item }
        let first = try step()
        let cached = device.cachedBytes
        #expect(cached > 0)
        #expect(try step() == first)
        #expect(device.cachedBytes == cached)
        device.trim()
        #expect(device.cachedBytes == 0)
        // What remains cached after a fresh start is what a step takes and gives back; the next one needs no more.
        #expect(try step() == first)
        let needed = device.cachedBytes
        #expect(try step() == first)
        #expect(device.cachedBytes == needed && needed <= cached)
    }

    /// By an eighth at most, and from four pages on by a 64th or to the next page.
    @Test func memoryIsAlignedAndRoundedUpByLittle() {
        let device = CPUDevice(threads: 1)
        let (page, huge) = (4 << 10, 4 << 20)
        let sizes = [0, 1, 63, 64, 65, 511, 512, 513, 1000, 1025, 4 * page, 4 * page + 1, 65_537, 262_145, 1_000_003]
        for bytes in sizes + [huge, huge + 1] {
            do {
                let storage = device.allocate(byteCount: bytes, kind: .working)
                let alignment: UInt = bytes >= huge ? 2 << 20 : 64
                #expect(UInt(bitPattern: storage.address) % alignment == 0)
                #expect(device.ledger.live() == bytes)
            }
            #expect(device.ledger.live() == 0)
            let size = device.cachedBytes
            let waste = bytes <= 4 * page ? max(64, bytes / 8 + 1) : max(page, bytes / 64 + 1)
            #expect(size >= bytes && size <= bytes + waste, "\(size) for \(bytes)")
            device.trim()
        }
    }

    #if os(Linux)
        /// Bytes that this process may write to, as a limit on them (RLIMIT_DATA) counts.
        private static func writable() throws -> Int {
            let status = try String(contentsOfFile: "/proc/self/status", encoding: .utf8)
            let line = try #require(status.split(separator: "\n").first { $0.hasPrefix("VmData:") })
            return try #require(Int(line.split(whereSeparator: \.isWhitespace)[1])) * 1024
        }

        /// They take no more than was asked for, and nothing after `trim`, although others that were asked for later are still there.
        @Test(arguments: [(16 << 10, 4096), ((4 << 20) + 4096, 16)])
        func blocksOfSomePagesTakeWhatTheyHoldAndComeBack(_ block: Int, _ count: Int) throws {
            let device = CPUDevice(threads: 1)
            let slack = 1 << 20
            let before = try Self.writable()
            var kept: [Storage] = []
            do {
                var passing: [Storage] = []
                for _ in 0..<count {
                    passing.append(device.allocate(byteCount: block, kind: .working))
                    kept.append(device.allocate(byteCount: block, kind: .working))
                }
                let rounded = block + block / 64
                #expect(abs(try Self.writable() - before - 2 * count * block) <= 2 * count * (rounded - block) + slack)
                withExtendedLifetime(passing) {}
            }
            let held = try Self.writable()
            device.trim()
            #expect(try held - Self.writable() >= count * block - slack)
            withExtendedLifetime(kept) {}
        }

        /// What asks the system itself (Swift's objects, MPI) finds two MiB under a limit, as long as something else is only cached.
        @Test func othersFindRoomBeforeAnythingStaysCached() throws {
            let device = CPUDevice(threads: 1)
            let (mebibyte, page) = (1 << 20, 4 << 10)
            var limit = rlimit()
            let resource = __rlimit_resource_t(RLIMIT_DATA.rawValue)
            try #require(getrlimit(resource, &limit) == 0)
            let unlimited = limit
            let end = try Self.writable() + 12 * mebibyte
            limit.rlim_cur = rlim_t(end)
            try #require(setrlimit(resource, &limit) == 0)
            defer { setrlimit(resource, [unlimited]) }

            _ = (0..<300).map { _ in device.allocate(byteCount: 5 * page, kind: .working) }
            #expect(device.cachedBytes > 5 * mebibyte)
            var kept: [Storage] = []
            while try device.cachedBytes > 0 && Self.writable() < end - mebibyte {
                kept.append(device.allocate(byteCount: 4 * page, kind: .working))
            }
            #expect(device.cachedBytes == 0)
            let others = mmap(nil, 2 * mebibyte, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANON, -1, 0)
            #expect(others != MAP_FAILED)
            if others != MAP_FAILED { munmap(others, 2 * mebibyte) }
            withExtendedLifetime(kept) {}
        }
    #endif

    @Test func reclassifiedMemoryChangesItsLine() {
        let device = CPUDevice(threads: 1)
        let x = Tensor.zeros([10], on: device)
        x.storage.reclassify(as: .optimizer)
        #expect(device.ledger.live() == 0 && device.ledger.live(.optimizer) == 40)
        #expect(device.ledger.peak(.optimizer) == 40)
        withExtendedLifetime(x) {}
    }

    @Test func exitCodesAreThoseOfSysexits() {
        #expect(RingZooError.Code.allCases.map { $0.exitCode } == [1, 64, 65, 66, 70, 74, 75, 78])
        let inner = RingZooError(.inputOutput, "disk full")
        let error = RingZooError(.failed, "no checkpoint", tried: ["free space"], underlying: inner)
        #expect(error.description == "no checkpoint\n  free space\n  caused by: disk full")
    }
}
