import Testing
import ZooCore

@Suite struct PaperTableTests {
    /// Memory that each layer needs for a token, and state spread over the devices, explain the paper's table but for two rows.
    @Test func oneMemoryModelExplainsMostOfTheTable() {
        #expect(PaperTable.rows.count == 13)
        let near = PaperTable.rows.filter { $0.factor <= 2.5 }
        #expect(near.count >= 10)
        let far = PaperTable.rows.filter { $0.factor > 2.5 }
        #expect(far.allSatisfy { $0.hardware.hasPrefix("32 x A100") })
    }

    /// 6 h elements of 4 bytes a token and layer: 8 devices of 80 GB, 107.84 GB of state.
    @Test func aRowByHand() throws {
        let row = try #require(PaperTable.rows.first { $0.hardware.hasPrefix("8 x") && $0.model == "7B" })
        let bytesPerToken = 32.0 * 6 * 4096 * 4
        #expect(abs(row.limit - (8 * 80e9 - 16 * 6.74e9) / bytesPerToken) < 1)
        #expect(row.predicted == 128 << 10 && row.reported == 256 << 10)
    }
}
