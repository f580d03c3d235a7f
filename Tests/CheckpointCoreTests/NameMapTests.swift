import TensorCore
import Testing

@testable import CheckpointCore

@Suite struct NameMapTests {
    private let map = try! NameMap([
        ("model.embed_tokens.weight", "embedding"),
        ("model.layers.{n}.self_attn.q_proj.weight", "layers.{n}.attention.q_proj"),
        ("model.layers.{n}.experts.{e}.w1", "layers.{n}.experts.{e}.gate"),
        ("h.{a}.{b}", "swapped.{b}.of.{a}"),
    ])

    @Test func namesAreMappedBothWays() {
        for (theirs, ours) in [
            ("model.embed_tokens.weight", "embedding"),
            ("model.layers.0.self_attn.q_proj.weight", "layers.0.attention.q_proj"),
            ("model.layers.31.self_attn.q_proj.weight", "layers.31.attention.q_proj"),
            ("model.layers.3.experts.12.w1", "layers.3.experts.12.gate"), ("h.1.20", "swapped.20.of.1"),
        ] {
            #expect(map.ours(theirs) == ours)
            #expect(map.theirs(ours) == theirs)
        }
    }

    @Test(arguments: [
        "", "model", "model.layers..self_attn.q_proj.weight", "model.layers.x.self_attn.q_proj.weight",
        "model.layers.01.self_attn.q_proj.weight", "model.layers.1.self_attn.q_proj.weight.", "model.layers.1",
        "model.layers.{n}.self_attn.q_proj.weight", "model.layers.-1.self_attn.q_proj.weight",
        "model.layers.٣.self_attn.q_proj.weight",
    ])
    func nameThatFitsNoRuleHasNoImage(_ name: String) {
        #expect(map.ours(name) == nil)
    }

    @Test func goingThereAndBackGivesTheNameAgain() throws {
        // Names made of the pieces that rules are made of, so that many of them fit.
        var state: UInt64 = 7
        func pick(_ pieces: [String]) -> String {
            state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
            return pieces[Int(state >> 33) % pieces.count]
        }
        let map = try NameMap([("a{n}b", "x.{n}"), ("a7", "y7"), ("a{n}b{m}", "x{m}.{n}"), ("{k}", "z{k}")])
        var fits = 0
        for _ in 0..<20_000 {
            let name =
                pick(["a", "x", "y", "z", ""]) + pick(["0", "7", "10", "07", ""]) + pick(["b", ".", ""])
                + pick(["0", "3", ""])
            if let ours = map.ours(name) {
                fits += 1
                #expect(map.theirs(ours) == name)
            }
            if let theirs = map.theirs(name) {
                fits += 1
                #expect(map.ours(theirs) == name)
            }
        }
        #expect(fits > 1_000)
    }

    @Test(arguments: [
        [("a.{n}", "b")], [("a", "b.{n}")], [("a.{n}", "b.{m}")], [("a.{n}.{n}", "b.{n}.{n}")], [("a.{n", "b.{n")],
        [("a.{}", "b.{}")], [("a{n}{m}", "b{n}.{m}")], [("a1{n}", "b{n}")], [("a{n}1", "b{n}")], [("", "b")],
        [("a", "x"), ("a", "y")], [("a", "x"), ("b", "x")], [("a.{n}", "x.{n}"), ("a.3", "y")],
        [("a.{n}", "x.{n}"), ("b", "x.0")], [("a.{n}.{m}", "x.{n}.{m}"), ("a.{k}.1", "y.{k}")],
    ])
    func rulesThatAreNotOneToOneAreRefused(_ rules: [(String, String)]) {
        #expect(fault { _ = try NameMap(rules.map { (theirs: $0.0, ours: $0.1) }) }?.code == .usage)
    }

    @Test func rulesThatOnlyLookAlikeAreAllowed() {
        #expect(fault { _ = try NameMap([("a.{n}", "x.{n}"), ("a.03", "y"), ("a.{n}.b", "x.{n}.b")]) } == nil)
    }
}
