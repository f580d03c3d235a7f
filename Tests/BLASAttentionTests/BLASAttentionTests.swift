import BLASAttention
import ConformanceKit
import Testing

@Suite struct BLASAttentionTests {
    @Test func conforms() throws {
        let violations = try AttentionConformance.violations(of: BLASAttention())
        #expect(violations.isEmpty, "\(violations.joined(separator: "\n"))")
    }
}
