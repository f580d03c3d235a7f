import CPUAttention
import ConformanceKit
import TensorCore
import Testing

@Suite struct CPUAttentionTests {
    @Test func conforms() throws {
        let violations = try AttentionConformance.violations(of: CPUAttention())
        #expect(violations.isEmpty, "\(violations.joined(separator: "\n"))")
    }

    @Test func refusesIntegers() throws {
        let device = CPUDevice(threads: 1)
        var input = AttentionCase("integers", heads: 1, length: 4, headSize: 4).inputs(on: device)
        input.problem.dtype = .int32
        #expect(!CPUAttention().unsupportedReasons(input.problem).isEmpty)
    }
}
