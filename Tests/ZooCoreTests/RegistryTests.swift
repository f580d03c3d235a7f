import TensorCore
import Testing

@testable import ZooCore

struct RegistryTests {
    private func filled() throws -> Registry<Int> {
        var registry = Registry<Int>("attention backend")
        try registry.register("cpu", 1)
        try registry.register("ring", 2)
        try registry.register("blas", 3)
        return registry
    }

    @Test func entryIsFoundByItsName() throws {
        let registry = try filled()
        #expect(try registry.entry("ring") == 2)
        #expect(registry.names == ["blas", "cpu", "ring"])
    }

    @Test func takenNameIsRefusedAndTheFirstEntryStays() throws {
        var registry = try filled()
        let error = #expect(throws: RingZooError.self) { try registry.register("ring", 9) }
        #expect(error?.code == .config)
        #expect(error?.description.contains("attention backend \"ring\" is registered already") == true)
        #expect(error?.description.contains("blas, cpu, ring") == true)
        #expect(try registry.entry("ring") == 2)
    }

    @Test func unknownNameListsTheNearestFirst() throws {
        let registry = try filled()
        let place = ConfigPlace(source: "run.yaml", line: 3)
        let error = #expect(throws: RingZooError.self) { try registry.entry("rnig", at: place) }
        #expect(error?.code == .config)
        #expect(error?.message == "run.yaml:3: no attention backend \"rnig\"; did you mean ring?")
        #expect(error?.tried == ["registered: ring, blas, cpu"])
        let none = #expect(throws: RingZooError.self) { try Registry<Int>("model").entry("llama") }
        #expect(none?.message == "no model \"llama\": none is registered")
    }

    @Test func registryIsAValue() throws {
        let first = try filled()
        var second = first
        try second.register("new", 4)
        #expect(first.names.count == 3 && second.names.count == 4)
    }
}

struct NearestNameTests {
    @Test(arguments: [
        ("", "abc", 3), ("abc", "abc", 0), ("abc", "acb", 1), ("abc", "ab", 1), ("abc", "xbc", 1),
        ("kitten", "sitting", 3),
        ("ca", "abc", 3),
    ]) func distanceCountsChangesAndSwaps(a: String, b: String, expected: Int) {
        #expect(editDistance(Array(a), Array(b)) == expected)
        #expect(editDistance(Array(b), Array(a)) == expected)
    }

    @Test func spellingStyleDoesNotCount() {
        let names = ["weightDecay", "warmup", "rate", "beta1", "beta2"]
        #expect(nearestName(to: "weight_decay", among: names) == "weightDecay")
        #expect(nearestName(to: "WARM-UP", among: names) == "warmup")
        #expect(nearestName(to: "beta3", among: names) == "beta1")
        #expect(nearestName(to: "x", among: []) == nil)
    }
}
