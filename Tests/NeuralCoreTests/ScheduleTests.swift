import NeuralCore
import TensorCore
import Testing

@Suite struct ScheduleTests {
    private func schedule(_ decay: Schedule.Decay) throws -> Schedule {
        try Schedule(decay, rate: 1, finalRate: 0.1, warmup: 3, steps: 13)
    }

    /// (step + 1) / (warmup + 1): never 0, and not yet the whole rate at the last step of the warm-up.
    @Test(arguments: Schedule.Decay.allCases) func warmUpRisesInEqualSteps(decay: Schedule.Decay) throws {
        let s = try schedule(decay)
        #expect([0, 1, 2, 3].map { s.rate(at: $0) } == [0.25, 0.5, 0.75, 1])
    }

    @Test func cosineFallsFromRateToFinalRate() throws {
        let s = try schedule(.cosine)
        #expect(abs(s.rate(at: 8) - 0.55) < 1e-15)
        // 0.1 + 0.9 (1 + cos(pi / 5)) / 2
        #expect(abs(s.rate(at: 5) - 0.914057647468726) < 1e-14)
        #expect(s.rate(at: 13) == 0.1 && s.rate(at: 1000) == 0.1)
        #expect((3..<13).allSatisfy { s.rate(at: $0 + 1) < s.rate(at: $0) })
    }

    @Test func linearFallsInEqualSteps() throws {
        let s = try schedule(.linear)
        #expect(abs(s.rate(at: 8) - 0.55) < 1e-15 && abs(s.rate(at: 4) - 0.91) < 1e-15)
        #expect(s.rate(at: 13) == 0.1)
    }

    @Test func constantStays() throws {
        let s = try schedule(.constant)
        #expect([3, 8, 13, 1000].allSatisfy { s.rate(at: $0) == 1 })
    }

    @Test func noWarmUpStartsAtTheWholeRate() throws {
        #expect(try Schedule(.cosine, rate: 2, finalRate: 0, warmup: 0, steps: 4).rate(at: 0) == 2)
    }

    @Test func valuesThatMakeNoSenseAreRefused() {
        #expect(throws: RingZooError.self) { try Schedule(.cosine, rate: -1, finalRate: 0, warmup: 0, steps: 4) }
        #expect(throws: RingZooError.self) { try Schedule(.cosine, rate: .nan, finalRate: 0, warmup: 0, steps: 4) }
        #expect(throws: RingZooError.self) { try Schedule(.linear, rate: 1, finalRate: 0, warmup: -1, steps: 4) }
    }
}
