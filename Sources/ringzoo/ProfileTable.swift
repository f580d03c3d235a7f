import TrainingCore

/// A profile in columns, for people.
struct ProfileTable {
    let profile: StepProfile

    init(_ profile: StepProfile) { self.profile = profile }

    var text: String {
        let ceilings = profile.ceilings
        let ranks = profile.ranks.count
        let head =
            "\nOne training step, the mean of \(profile.steps)\(ranks > 1 ? " on \(ranks) ranks" : ""): "
            + "\(Terminal.number(profile.stepSeconds * 1e3, 1)) ms\n"
            + "Ceilings measured now, \(ceilings.threads) thread\(ceilings.threads == 1 ? "" : "s"): \(Terminal.number(ceilings.gigaflops, 0)) GFLOP/s float32, "
            + "\(Terminal.number(ceilings.readGigabytes, 1)) GB/s read from memory\n\n"
        let titles =
            padded("operation", 24) + leading("calls", 8) + leading("ms", 10) + leading("share", 8)
            + leading("GFLOP/s", 10) + leading("of max", 8) + leading("GB/s", 8) + leading("of max", 8) + "\n"
        let note =
            "\nGB/s count operands and result once; what comes from the caches can be above the rate of memory.\n"
        return head + titles + profile.rows.map(line).joined() + note
    }

    private func line(_ row: StepProfile.Row) -> String {
        func rate(_ value: Double, _ width: Int, of ceiling: Double) -> String {
            if value <= 0 { return leading("", width + 8) }
            return leading(Terminal.number(value, 1), width) + leading(percent(value / ceiling), 8)
        }
        return padded(row.name, 24) + leading(Terminal.number(row.calls, 0), 8)
            + leading(Terminal.number(row.seconds * 1e3, 2), 10) + leading(percent(row.share), 8)
            + rate(row.gigaflops, 10, of: profile.ceilings.gigaflops)
            + rate(row.gigabytes, 8, of: profile.ceilings.readGigabytes) + "\n"
    }

    private func percent(_ share: Double) -> String { Terminal.number(share * 100, 1) + " %" }
}
