import TensorCore

extension RunConfig {
    /// The config with every key written out, as YAML; reading it gives an equal value.
    public var yaml: String { tree.yaml }

    /// The config with every key written out.
    public var tree: ConfigTree {
        .mapping([
            ("model", model.tree), ("attention", attention.tree), ("parallel", parallel.tree), ("data", data.tree),
            ("optimizer", optimizer.tree), ("precision", .word(precision.rawValue)), ("memory", memory.tree),
            ("run", run.tree),
        ])
    }
}

extension ModelSection {
    var tree: ConfigTree {
        let own: [(String, ConfigTree)] = [
            ("name", .orNone(name) { .text($0) }), ("preset", .orNone(preset) { .text($0) }),
            ("from", .orNone(from) { .text($0) }),
        ]
        return fields.over(.mapping(own))
    }
}

extension AttentionSection {
    var tree: ConfigTree {
        .mapping([
            ("backend", .name(backend)), ("local", .name(local)), ("layout", .word(layout.rawValue)),
            ("block", .countOrAuto(block)), ("strategy", .name(strategy)), ("headRanks", .countOrAuto(headRanks)),
        ])
    }
}

extension ParallelSection {
    var tree: ConfigTree {
        .mapping([
            ("sequence", .integer(sequence)), ("data", .integer(data)), ("tensor", .integer(tensor)),
            ("shardParameters", .flag(shardParameters)), ("link", .word(link.rawValue)),
            ("deadline", .number(deadline)), ("shares", .orNone(shares) { .integers($0) }),
        ])
    }
}

extension DataSection {
    var tree: ConfigTree {
        let place = ConfigPlace.made
        return .mapping([
            ("kind", .text(kind)), ("path", ConfigTree(.sequence(paths.map { .text($0) }), place: place)),
            ("tokenizer", .text(tokenizer)), ("context", .countOrAuto(context)), ("batch", .integer(batch)),
            ("accumulate", .integer(accumulate)), ("validation", .number(validation)), ("packing", .flag(packing)),
            ("resetPositions", .flag(resetPositions)),
        ])
    }
}

extension OptimizerSection {
    var tree: ConfigTree {
        let warmup: ConfigTree =
            switch warmup {
            case .share(let share): .number(share)
            case .steps(let steps): .integer(steps)
            }
        return .mapping([
            ("name", .text(name)), ("rate", .number(rate)), ("schedule", .text(schedule)), ("warmup", warmup),
            ("finalRate", .number(finalRate)), ("weightDecay", .number(weightDecay)), ("beta1", .number(beta1)),
            ("beta2", .number(beta2)), ("clip", .orNone(clip) { .number($0) }),
        ])
    }
}

extension MemorySection {
    var tree: ConfigTree {
        .mapping([
            ("rematerialise", .word(rematerialise.rawValue)), ("feedForwardChunk", .countOrAuto(feedForwardChunk)),
            ("lossChunk", .countOrAuto(lossChunk)), ("budget", .orNone(budget) { .integer($0) }),
        ])
    }
}

extension RunSection {
    var tree: ConfigTree {
        .mapping([
            ("directory", .text(directory)), ("steps", .integer(steps)),
            ("stopAfter", .orNone(stopAfter) { .integer($0) }),
            ("evaluateEvery", .orNone(evaluateEvery) { .integer($0) }),
            ("checkpointEvery", .orNone(checkpointEvery) { .integer($0) }), ("keep", .integer(keep)),
            ("seed", .integer(seed)), ("onNonFinite", .word(onNonFinite.rawValue)),
        ])
    }
}

extension ConfigTree {
    fileprivate static func orNone<Value>(_ value: Value?, _ make: (Value) -> ConfigTree) -> ConfigTree {
        value.map(make) ?? .word("none")
    }

    fileprivate static func countOrAuto(_ value: CountOrAuto) -> ConfigTree {
        switch value {
        case .auto: .word("auto")
        case .count(let count): .integer(count)
        }
    }

    fileprivate static func name(_ name: String) -> ConfigTree { name == "auto" ? .word(name) : .text(name) }
}
