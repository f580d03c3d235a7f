import Foundation
import TensorCore
import Testing

@testable import DataCore

struct PermutationTests {
    @Test func everyEpochIsABijection() {
        for count in [1, 2, 3, 4, 5, 16, 17, 63, 64, 65, 1_000, 4_097] {
            for epoch in 0..<3 {
                let permutation = Permutation(count: count, seed: 5, epoch: epoch)
                #expect(Set((0..<count).map { permutation[$0] }) == Set(0..<count), "\(count) in epoch \(epoch)")
            }
        }
    }

    @Test func seedAndEpochChangeTheOrder() {
        func order(_ seed: UInt64, _ epoch: Int) -> [Int] {
            let permutation = Permutation(count: 100, seed: seed, epoch: epoch)
            return (0..<100).map { permutation[$0] }
        }
        #expect(order(1, 0) == order(1, 0))
        #expect(order(1, 0) != order(1, 1))
        #expect(order(1, 0) != order(2, 0))
        #expect(order(1, 0) != Array(0..<100))
    }

    /// Chi-square over which element comes at each place: 99 degrees of freedom, 170 is beyond the 99.999th percentile.
    @Test func everyElementIsEquallyLikelyAtEveryPlace() {
        for place in [0, 1, 57, 99] {
            var counts = [Double](repeating: 0, count: 100)
            for seed in 0..<20_000 as Range<UInt64> {
                counts[Permutation(count: 100, seed: seed, epoch: 0)[place]] += 1
            }
            let chiSquare = counts.reduce(0) { $0 + ($1 - 200) * ($1 - 200) / 200 }
            #expect(chiSquare < 170, "place \(place)")
        }
    }
}

struct TextDatasetTests {
    let folder: TemporaryFolder
    /// No two windows of it are the same.
    let text = (0..<400).map { "line \($0) of the text;" }.joined(separator: "\n")

    init() throws { folder = try TemporaryFolder() }

    func dataset(_ options: DatasetOptions, _ texts: [String]? = nil) throws -> Dataset {
        let paths = try (texts ?? [text]).enumerated().map { try folder.write($1, to: "part-\($0).txt") }
        return try Dataset.text(paths: paths, tokenizer: ByteTokenizer(), options: options)
    }

    @Test func rowsAreWindowsOfTheTrainingPartAndTargetsAreTheNextTokens() throws {
        var loader = try dataset(DatasetOptions(context: 50, seed: 3)).makeLoader(rowsPerBatch: 4)
        let bytes = Array(text.utf8).map(Int32.init)
        let training = Array(bytes.dropLast(bytes.count / 10))
        var starts: Set<Int> = []
        for _ in 0..<50 {
            let batch = loader.next()
            #expect(batch.rows == 4 && batch.tokens.count == 200 && batch.targets.count == 200)
            for row in 0..<4 {
                let tokens = Array(batch.tokens[row * 50..<row * 50 + 50])
                let start = try #require(firstIndex(of: tokens, in: training))
                starts.insert(start)
                #expect(Array(batch.targets[row * 50..<row * 50 + 50]) == Array(training[start + 1..<start + 51]))
                #expect(Array(batch.positions[row * 50..<row * 50 + 50]) == (0..<50).map { Int32($0) })
            }
            #expect(Set(batch.documents) == [0])
        }
        #expect(starts.count > 190, "offsets are drawn from the whole text: \(starts.count) of 200 differ")
        #expect(starts.max()! > training.count * 9 / 10 && starts.min()! < training.count / 10)
    }

    @Test(arguments: [1, 7, 50, 64, 2_000]) func everyEvaluationTargetIsCountedOnce(context: Int) throws {
        let dataset = try dataset(DatasetOptions(context: context, validation: 0.2))
        let bytes = Array(text.utf8).map(Int32.init)
        let evaluation = Array(bytes.suffix(bytes.count / 5))
        #expect(dataset.evaluationTokenCount == evaluation.count)
        let batches = Array(dataset.evaluationBatches(rowsPerBatch: 3))
        let targets = batches.flatMap { $0.targets.filter { $0 != Batch.ignoredTarget } }
        #expect(targets == Array(evaluation.dropFirst()))
        #expect(batches.reduce(0) { $0 + $1.targetCount } == evaluation.count - 1)
        for batch in batches {
            #expect(batch.tokens.count == batch.rows * context)
            for place in batch.tokens.indices where batch.documents[place] == Batch.paddingDocument {
                #expect(batch.targets[place] == Batch.ignoredTarget && batch.tokens[place] == 0)
            }
        }
        #expect(Array(dataset.evaluationBatches(rowsPerBatch: 3, limit: 1)) == Array(batches.prefix(1)))
    }

    @Test func savedPositionGoesOnExactly() throws {
        for order in [DataLoader.Order.shuffled, .independent] {
            let source = TokenWindows(
                stream(of: [text]), range: 0..<500, context: 9, stride: 9, resetPositions: true)
            let fresh = DataLoader(source, rowsPerBatch: 4, seed: 8, order: order)
            var loader = fresh
            var batches: [Batch] = []
            var positions: [Data] = []
            for _ in 0..<40 {
                positions.append(try JSONEncoder().encode(loader.position))
                batches.append(loader.next())
            }
            #expect(loader.position.epoch == 160 / source.rowCount)
            for index in [0, 13, 14, 39] {
                var resumed = fresh
                resumed.position = try JSONDecoder().decode(DataLoader.Position.self, from: positions[index])
                #expect((index..<40).map { _ in resumed.next() } == Array(batches[index...]))
            }
            #expect(Set(batches.map(\.tokens)).count > 36, "batches differ from each other")
        }
    }

    @Test func filesAreDocumentsAndNoTargetCrossesThem() throws {
        let tokens = stream(of: ["abcde", "fgh", "ijklmnop"])
        var batch = Batch(context: 12)
        TokenWindows(tokens, range: 0..<16, context: 12, stride: 12, resetPositions: true).append(row: 0, to: &batch)
        #expect(ByteTokenizer().decode(batch.tokens) == "abcdefghijkl")
        #expect(batch.targets == [98, 99, 100, 101, -1, 103, 104, -1, 106, 107, 108, 109])
        #expect(batch.documents == [0, 0, 0, 0, 0, 1, 1, 1, 2, 2, 2, 2])
        #expect(batch.positions == [0, 1, 2, 3, 4, 0, 1, 2, 0, 1, 2, 3])
        TokenWindows(tokens, range: 0..<16, context: 12, stride: 12, resetPositions: false).append(row: 1, to: &batch)
        #expect(batch.rows == 2)
        #expect(ByteTokenizer().decode(Array(batch.tokens[12..<15])) == "mno")
        #expect(Array(batch.targets[12...]) == [110, 111, 112] + Array(repeating: -1, count: 9))
        #expect(Array(batch.positions[12...]) == (0..<12).map { Int32($0) })
        #expect(Array(batch.documents[12...]) == [0, 0, 0] + Array(repeating: -1, count: 9))
    }

    @Test func errorsNameFileAndNumbers() throws {
        func message(_ body: () throws -> Dataset) -> (RingZooError.Code?, String) {
            do { _ = try body() } catch { return ((error as? RingZooError)?.code, "\(error)") }
            return (nil, "no error")
        }
        let options = DatasetOptions(context: 100)
        let absent = message {
            try Dataset.text(paths: [folder.path + "/absent.txt"], tokenizer: ByteTokenizer(), options: options)
        }
        #expect(absent.0 == .missingInput && absent.1.contains("absent.txt: no such file"))
        let aFolder = message {
            try Dataset.text(paths: [folder.path], tokenizer: ByteTokenizer(), options: options)
        }
        #expect(aFolder.0 == .missingInput && aFolder.1.contains("a folder"))
        let empty = message { try dataset(options, [""]) }
        #expect(empty.0 == .corruptInput && empty.1.contains("part-0.txt: the file is empty"))
        let short = message { try dataset(options, [String(repeating: "x", count: 111)]) }
        #expect(short.0 == .corruptInput && short.1.contains("100 of 111 tokens, one row needs 101"))
        _ = try dataset(options, [String(repeating: "x", count: 112)])
        let noPart = message { try dataset(DatasetOptions(context: 3, validation: 0.1), ["0123456789"]) }
        #expect(noPart.1.contains("is 1 of 10 tokens"))
        #expect(message { try dataset(DatasetOptions(context: 3, validation: 1)) }.0 == .config)
        #expect(message { try dataset(DatasetOptions(context: 0)) }.0 == .config)
        #expect(message { try dataset(DatasetOptions(context: 3, packing: true)) }.1.contains("packing"))
        let noPath = message { try Dataset.text(paths: [], tokenizer: ByteTokenizer(), options: options) }
        #expect(noPath.0 == .config && noPath.1.contains("data.path"))
    }

    private func stream(of texts: [String]) -> TokenStream {
        var stream = TokenStream()
        for text in texts { stream.append(document: ByteTokenizer().encode(text)) }
        return stream
    }

    private func firstIndex(of window: [Int32], in tokens: [Int32]) -> Int? {
        (0...tokens.count - window.count).first { Array(tokens[$0..<$0 + window.count]) == window }
    }
}

struct RecordDatasetTests {
    struct Pair: Codable, Hashable {
        var prompt: String
        var completion: String
    }

    let folder: TemporaryFolder
    let pairs = (0..<57).map {
        Pair(
            prompt: String(repeating: "p", count: $0 % 7) + "\($0)?",
            completion: String(repeating: "c", count: 1 + $0 % 9))
    }

    init() throws { folder = try TemporaryFolder() }

    func dataset(_ options: DatasetOptions) throws -> Dataset {
        let lines = try pairs.map { String(decoding: try JSONEncoder().encode($0), as: UTF8.self) }
        let path = try folder.write(lines.joined(separator: "\n") + "\n\n", to: "records.jsonl")
        return try Dataset.records(paths: [path], tokenizer: ByteTokenizer(), options: options)
    }

    /// The records of a row, read back from the batch alone: tokens of one document, then its last target.
    private func records(in batch: Batch) throws -> [Pair] {
        var found: [Pair] = []
        for row in 0..<batch.rows {
            let places = row * batch.context..<(row + 1) * batch.context
            for document in Set(batch.documents[places]).sorted() where document != Batch.paddingDocument {
                let own = places.filter { batch.documents[$0] == document }
                #expect(own == Array(own.first!...own.last!), "a document is in one piece")
                let learned = own.filter { batch.targets[$0] != Batch.ignoredTarget }
                let firstLearned = try #require(learned.first, "every completion is learned")
                #expect(learned == Array(firstLearned...learned.last!), "the completion is learned without a gap")
                for place in learned.dropLast() { #expect(batch.targets[place] == batch.tokens[place + 1]) }
                let prompt = ByteTokenizer().decode(Array(batch.tokens[own.first!...firstLearned]))
                let completion = ByteTokenizer().decode(learned.map { batch.targets[$0] })
                found.append(Pair(prompt: prompt, completion: completion))
            }
        }
        return found
    }

    @Test(arguments: [false, true]) func everyEpochLearnsEachCompletionOnce(packing: Bool) throws {
        let dataset = try dataset(DatasetOptions(context: 30, validation: 0, packing: packing, seed: 4))
        var loader = dataset.makeLoader(rowsPerBatch: 1)
        var epochs: [[Pair]] = []
        for epoch in 0..<3 {
            var seen: [Pair] = []
            while loader.position.epoch == epoch { seen += try records(in: loader.next()) }
            #expect(seen.count == pairs.count && Set(seen) == Set(pairs))
            epochs.append(seen)
        }
        #expect(epochs[0] != epochs[1] && epochs[0] != pairs)
        if packing {
            #expect(
                loader.rowsPerEpoch < 2 * dataset.trainingTokenCount / 30, "rows are filled: \(loader.rowsPerEpoch)")
        } else {
            #expect(loader.rowsPerEpoch == pairs.count)
        }
        #expect(dataset.evaluationBatches(rowsPerBatch: 1).first(where: { _ in true }) == nil)
    }

    @Test(arguments: [false, true]) func lastRecordsAreForEvaluation(packing: Bool) throws {
        let dataset = try dataset(DatasetOptions(context: 30, validation: 0.2, packing: packing))
        var seen: [Pair] = []
        for batch in dataset.evaluationBatches(rowsPerBatch: 4) { seen += try records(in: batch) }
        #expect(seen == Array(pairs.suffix(11)))
    }

    @Test func positionsRestartOnlyWhenAsked() throws {
        for reset in [true, false] {
            let options = DatasetOptions(context: 40, validation: 0, packing: true, resetPositions: reset)
            var loader = try dataset(options).makeLoader(rowsPerBatch: 5)
            let batch = loader.next()
            for place in batch.positions.indices {
                let isStart = place % 40 == 0 || batch.documents[place] != batch.documents[place - 1]
                let expected =
                    reset ? (isStart ? 0 : batch.positions[place - 1] + 1) : Int32(place % 40)
                #expect(batch.positions[place] == expected)
            }
            #expect(Set(batch.documents).count > 2)
        }
    }

    @Test func batchMayEndOneEpochAndBeginTheNext() throws {
        let dataset = try dataset(DatasetOptions(context: 30, validation: 0))
        var ones = dataset.makeLoader(rowsPerBatch: 1)
        var fives = dataset.makeLoader(rowsPerBatch: 5)
        for _ in 0..<30 {
            #expect(fives.next().tokens == (0..<5).flatMap { _ in ones.next().tokens })
            #expect(fives.position == ones.position)
        }
        #expect(fives.position == DataLoader.Position(epoch: 150 / 57, index: 150 % 57))
    }

    @Test(arguments: [
        (#"{"prompt": "a", "completion": "b""#, ":3: not JSON"),
        (#"["a", "b"]"#, ":3: not a JSON object"),
        (#"{"question": "a", "completion": "b"}"#, #":3: no field "prompt"; the line has completion, question"#),
        (#"{"prompt": "a"}"#, #":3: no field "completion""#),
        (#"{"prompt": "a", "completion": 4}"#, #":3: the field "completion" is not a string"#),
        (#"{"prompt": "a", "completion": ""}"#, ":3: nothing to learn"),
        (
            #"{"prompt": "0123456789", "completion": "0123456789"}"#,
            ":3: the record takes 19 places of a row, the context has 10"
        ),
    ]) func badLineIsNamed(line: String, expected: String) throws {
        let good = #"{"prompt": "a", "completion": "b", "id": 7}"#
        let path = try folder.write("\(good)\r\n\n\(line)\n\(good)\n", to: "bad.jsonl")
        let error = #expect(throws: RingZooError.self) {
            try Dataset.records(paths: [path], tokenizer: ByteTokenizer(), options: DatasetOptions(context: 10))
        }
        #expect(error?.code == .corruptInput)
        #expect(error?.message.contains("bad.jsonl" + expected) == true, "\(error?.message ?? "")")
    }

    @Test func fileWithoutRecordsIsRefused() throws {
        let path = try folder.write("\n\n", to: "none.jsonl")
        let error = #expect(throws: RingZooError.self) {
            try Dataset.records(paths: [path], tokenizer: ByteTokenizer(), options: DatasetOptions(context: 10))
        }
        #expect(error?.message.contains("none.jsonl: no records") == true)
    }
}
