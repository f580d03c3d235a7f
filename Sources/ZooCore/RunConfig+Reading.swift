import TensorCore

extension RunConfig {
    /// Reads a config file, with overrides (`a.b=value`) on top, the later over the earlier.
    ///
    /// Throws `.missingInput` for a file that is not there, `.config` with the line for everything else.
    public static func load(path: String, overrides: [String] = []) throws -> RunConfig {
        try RunConfig(tree: try overrides.reduce(ConfigTree(path: path)) { try ConfigTree(override: $1).over($0) })
    }

    /// Decodes a whole config and fills in the defaults.
    ///
    /// Throws `.config` for a key nobody knows, a value that makes no sense, and a key whose feature does not exist yet.
    public init(tree: ConfigTree) throws {
        var root = try ConfigSection(tree, name: "")
        // All sections are known before the first one is read, so that a misspelled section is named as such.
        var sections: [String: ConfigSection] = [:]
        let names = ["model", "attention", "parallel", "data", "optimizer", "memory", "run"]
        for name in names {
            sections[name] = try root.section(name)
        }
        precision = try root.choice("precision", default: .float32)
        try root.finish()
        model = try ModelSection(&sections["model"]!)
        attention = try AttentionSection(&sections["attention"]!)
        parallel = try ParallelSection(&sections["parallel"]!)
        data = try DataSection(&sections["data"]!)
        optimizer = try OptimizerSection(&sections["optimizer"]!)
        memory = try MemorySection(&sections["memory"]!)
        run = try RunSection(&sections["run"]!)
        for name in names { try sections[name]!.finish() }
        places.byKey = tree.places()
        try refuseMissingFeatures()
    }
}

extension ModelSection {
    init(_ section: inout ConfigSection) throws {
        preset = try section.optionalText("preset")
        from = try section.optionalText("from")
        name = from == nil ? try section.text("name") : try section.optionalText("name")
        fields = section.rest()
    }
}

extension ConfigSection {
    /// What `model` has beside name, preset and from: the size fields, for the model's own decoder.
    public init(modelFields fields: ConfigTree) throws {
        try self.init(fields, name: "model", readBefore: ["name", "preset", "from"])
    }
}

extension AttentionSection {
    init(_ section: inout ConfigSection) throws {
        backend = try section.text("backend", default: "auto")
        local = try section.text("local", default: "auto")
        layout = try section.choice("layout", default: .auto)
        block = try section.countOrAuto("block")
        strategy = try section.text("strategy", default: "auto")
        headRanks = try section.countOrAuto("headRanks")
    }
}

extension ParallelSection {
    init(_ section: inout ConfigSection) throws {
        sequence = try section.integer("sequence", default: 1, .atLeast(1))
        data = try section.integer("data", default: 1, .atLeast(1))
        tensor = try section.integer("tensor", default: 1, .atLeast(1))
        shardParameters = try section.flag("shardParameters", default: false)
        link = try section.choice("link", default: .auto)
        deadline = try section.number("deadline", default: 60, .above(0))
        shares = try section.optionalIntegers("shares", count: sequence, .atLeast(1))
    }
}

extension DataSection {
    init(_ section: inout ConfigSection) throws {
        kind = try section.text("kind", default: "text")
        paths = try section.texts("path")
        tokenizer = try section.text("tokenizer", default: "bytes")
        context = try section.countOrAuto("context")
        batch = try section.integer("batch", default: 8, .atLeast(1))
        accumulate = try section.integer("accumulate", default: 1, .atLeast(1))
        validation = try section.number("validation", default: 0.1, .from(0, below: 1))
        packing = try section.flag("packing", default: false)
        resetPositions = try section.flag("resetPositions", default: true)
    }
}

extension OptimizerSection {
    init(_ section: inout ConfigSection) throws {
        name = try section.text("name", default: "adamw")
        rate = try section.number("rate", default: 3e-4, .above(0))
        schedule = try section.text("schedule", default: "cosine")
        warmup =
            try section.value("warmup", "a share of the steps below 1 or a whole number of steps") { text, isQuoted in
                guard !isQuoted, let number = parseNumber(text), number >= 0 else { return nil }
                return number < 1 ? .share(number) : Int(exactly: number).map { .steps($0) }
            } ?? .share(0.02)
        finalRate = try section.number("finalRate", default: 0.1, .within(0, 1))
        weightDecay = try section.number("weightDecay", default: 0.1, .atLeast(0))
        beta1 = try section.number("beta1", default: 0.9, .from(0, below: 1))
        beta2 = try section.number("beta2", default: 0.95, .from(0, below: 1))
        clip = section.isWritten("clip") ? try section.optionalNumber("clip", .above(0)) : 1.0
    }
}

extension MemorySection {
    init(_ section: inout ConfigSection) throws {
        rematerialise = try section.choice("rematerialise", default: .none)
        feedForwardChunk = try section.countOrAuto("feedForwardChunk")
        lossChunk = try section.countOrAuto("lossChunk")
        budget = try section.optionalByteCount("budget")
    }
}

extension RunSection {
    init(_ section: inout ConfigSection) throws {
        directory = try section.text("directory")
        steps = try section.integer("steps", .atLeast(1))
        stopAfter = try section.optionalInteger("stopAfter", .atLeast(1))
        let evaluate = try section.optionalInteger("evaluateEvery", .atLeast(1))
        evaluateEvery = section.isWritten("evaluateEvery") ? evaluate : max(1, steps / 10)
        let checkpoint = try section.optionalInteger("checkpointEvery", .atLeast(1))
        checkpointEvery = section.isWritten("checkpointEvery") ? checkpoint : max(1, steps / 5)
        keep = try section.integer("keep", default: 3, .atLeast(1))
        seed = try section.unsigned("seed", default: 1)
        onNonFinite = try section.choice("onNonFinite", default: .stop)
    }
}

extension ConfigSection {
    mutating func countOrAuto(_ key: String) throws -> CountOrAuto {
        try value(key, "auto or a whole number of at least 1") { text, isQuoted in
            if isQuoted { return nil }
            if text == "auto" { return .auto }
            return parseWholeNumber(text).flatMap { $0 >= 1 ? .count($0) : nil }
        } ?? .auto
    }

    /// Whether the key has a value, be it `none`: tells "never" from "the default".
    mutating func isWritten(_ key: String) -> Bool { tree(key).map { $0.content != .null } ?? false }
}
