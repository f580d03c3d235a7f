import Foundation
import NeuralCore
import TensorCore
import Testing

@Suite struct GenerationSamplerTests {
    /// Logits of these probabilities.
    private func logits(_ probabilities: [Double]) -> [Double] { probabilities.map { log($0) } }

    private func expectClose(
        _ found: [Double], _ expected: [Double], sourceLocation: SourceLocation = #_sourceLocation
    ) {
        #expect(found.count == expected.count, sourceLocation: sourceLocation)
        for (a, b) in zip(found, expected) {
            #expect(abs(a - b) <= 1e-12 && (a == 0) == (b == 0), "\(found)", sourceLocation: sourceLocation)
        }
    }

    @Test func temperatureZeroTakesTheFirstLargest() throws {
        let sampler = try Sampler(temperature: 0, topK: 1, topP: 0.1, minP: 1, seed: 9)
        #expect(try sampler.sample([1, 3, -.infinity, 3, 2], position: 0) == 1)
        #expect(try sampler.sample([-5], position: 7) == 0)
        #expect(try sampler.probabilities([1, 3, 3], position: 0) == [0, 1, 0])
    }

    /// Pearson's statistic of 40,000 draws against the probabilities; 99.99 % of all seeds stay below 23.5 (4 degrees of freedom).
    @Test func frequenciesAreTheProbabilities() throws {
        let probabilities = [0.5, 0.3, 0.0, 0.15, 0.04, 0.01]
        let count = 40_000
        for seed: UInt64 in [1, 2, 77] {
            let sampler = try Sampler(seed: seed)
            var found = [Int](repeating: 0, count: probabilities.count)
            for position in 0..<count {
                found[Int(try sampler.sample(logits(probabilities), position: position))] += 1
            }
            #expect(found[2] == 0)
            let statistic = zip(found, probabilities).filter { $1 > 0 }.reduce(0.0) { sum, pair in
                let expected = pair.1 * Double(count)
                return sum + (Double(pair.0) - expected) * (Double(pair.0) - expected) / expected
            }
            #expect(statistic < 23.5, "\(found)")
        }
    }

    @Test func drawsDependOnSeedAndPositionAlone() throws {
        let flat = [Double](repeating: 0, count: 1000)
        let sampler = try Sampler(seed: 4)
        let forwards = try (0..<50).map { try sampler.sample(flat, position: $0) }
        let backwards = try (0..<50).reversed().map { try Sampler(seed: 4).sample(flat, position: $0) }
        #expect(forwards == backwards.reversed())
        #expect(Set(forwards).count > 40)
        #expect(try (0..<50).map { try Sampler(seed: 5).sample(flat, position: $0) } != forwards)
    }

    /// p_i^(1/temperature), normalised.
    @Test(arguments: [0.5, 1, 2.5, 1e-300])
    func temperatureDividesTheLogits(_ temperature: Double) throws {
        let p = [0.4, 0.35, 0.2, 0.05]
        let powers = p.map { pow($0 / 0.4, 1 / temperature) }
        let sum = powers.reduce(0, +)
        expectClose(
            try Sampler(temperature: temperature).probabilities(logits(p), position: 0), powers.map { $0 / sum })
    }

    @Test func topKKeepsTheLargestAndTheirEquals() throws {
        let p = [0.1, 0.4, 0.2, 0.1, 0.2]
        func kept(_ k: Int) throws -> [Double] { try Sampler(topK: k).probabilities(logits(p), position: 0) }
        expectClose(try kept(1), [0, 1, 0, 0, 0])
        // Two are as likely as the second.
        expectClose(try kept(2), [0, 0.5, 0.25, 0, 0.25])
        expectClose(try kept(3), [0, 0.5, 0.25, 0, 0.25])
        for k in [4, 5, 6, Int.max] { expectClose(try kept(k), p) }
    }

    @Test func topPKeepsTheFewestThatReachIt() throws {
        let p = [0.125, 0.5, 0.25, 0.125]
        func kept(_ topP: Double) throws -> [Double] { try Sampler(topP: topP).probabilities(logits(p), position: 0) }
        expectClose(try kept(1e-9), [0, 1, 0, 0])
        expectClose(try kept(0.49), [0, 1, 0, 0])
        expectClose(try kept(0.51), [0, 2.0 / 3, 1.0 / 3, 0])
        // Of equals the first one stays.
        expectClose(try kept(0.8), [1.0 / 7, 4.0 / 7, 2.0 / 7, 0])
        expectClose(try kept(0.99), p)
        expectClose(try kept(1), p)
    }

    @Test func minPIsAShareOfTheMostLikely() throws {
        let p = [0.5, 0.26, 0.14, 0.1]
        func kept(_ minP: Double) throws -> [Double] { try Sampler(minP: minP).probabilities(logits(p), position: 0) }
        expectClose(try kept(0), p)
        expectClose(try kept(0.19), p)
        expectClose(try kept(0.21), [0.5 / 0.9, 0.26 / 0.9, 0.14 / 0.9, 0])
        expectClose(try kept(0.53), [1, 0, 0, 0])
        let equals = try Sampler(minP: 1).probabilities([2, 1, 2], position: 0)
        expectClose(equals, [0.5, 0, 0.5])
    }

    /// Each pair of neighbours, with numbers where the other order would keep other tokens.
    @Test func warpersComeInTheirOrder() throws {
        // Temperature first: squared, 0.4 and 0.3 are 16/25.5 and 9/25.5 of all; the two reach 0.9, unsquared they would not.
        let p = [0.4, 0.3, 0.05, 0.05, 0.05, 0.05, 0.05, 0.05]
        let hot = try Sampler(temperature: 0.5, topP: 0.9).probabilities(logits(p), position: 0)
        #expect(hot.filter { $0 > 0 }.count == 2)
        // Top-k before top-p: of three, 0.4 and 0.3 are 7/9; of all they are only 0.7 and a third one would be needed.
        let both = try Sampler(topK: 3, topP: 0.75).probabilities(logits([0.4, 0.3, 0.2, 0.1]), position: 0)
        expectClose(both, [4.0 / 7, 3.0 / 7, 0, 0])
        // Top-p before min-p: once min-p had taken the tail, 0.41 of 0.81 would reach 0.5 alone.
        let q = [0.41, 0.4] + [Double](repeating: 0.019, count: 10)
        let last = try Sampler(topP: 0.5, minP: 0.5).probabilities(logits(q), position: 0)
        #expect(last.filter { $0 > 0 }.count == 2)
    }

    @Test func logitsThatAreNoNumbersAreNamed() throws {
        for temperature in [0.0, 1] {
            let sampler = try Sampler(temperature: temperature)
            for bad in [Double.nan, .infinity] {
                let error = #expect(throws: RingZooError.self) { try sampler.sample([0, 1, bad, 2], position: 17) }
                #expect(error?.code == .failed)
                #expect(error?.message == "position 17: the logit of token 2 is \(bad)")
            }
            let error = #expect(throws: RingZooError.self) {
                try sampler.sample([-.infinity, -.infinity], position: 3)
            }
            #expect(error?.message == "position 3: all 2 logits are -inf")
            #expect(try sampler.sample([-.infinity, -800, -.infinity], position: 0) == 1)
        }
    }

    @Test func optionsThatMakeNoSenseAreRefused() {
        for make in [
            { try Sampler(temperature: -0.1) }, { try Sampler(temperature: .nan) },
            { try Sampler(temperature: .infinity) }, { try Sampler(topK: 0) }, { try Sampler(topP: 0) },
            { try Sampler(topP: 1.01) }, { try Sampler(topP: .nan) }, { try Sampler(minP: -1) },
            { try Sampler(minP: 1.5) }, { try Sampler(minP: .nan) },
        ] as [@Sendable () throws -> Sampler] {
            let error = #expect(throws: RingZooError.self) { try make() }
            #expect(error?.code == .usage)
        }
    }
}
