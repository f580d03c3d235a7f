import TensorCore
import Testing

@Suite struct OperationRecorderTests {
    @Test func theTimeOfAnOperationIsItsOwnAndThatOfThoseInside() {
        let recorder = OperationRecorder()
        let outer = recorder.open("outer", flops: 3, bytes: 5)
        for _ in 0..<2 { recorder.open("inner").close() }
        outer.close()
        let spans = recorder.take()
        #expect(spans.map(\.name) == ["inner", "inner", "outer"])
        #expect(spans.map(\.depth) == [1, 1, 0])
        #expect(spans[2].flops == 3 && spans[2].bytes == 5)
        let inside = spans[0].end - spans[0].start + spans[1].end - spans[1].start
        #expect(abs(spans[2].ownSeconds - (spans[2].end - spans[2].start - inside)) < 1e-12)
        #expect(spans[0].start >= spans[2].start && spans[1].end <= spans[2].end)
        #expect(recorder.take().isEmpty)
    }

    @Test func whatAnOperationMovesAndComputesIsCounted() {
        let device = CPUDevice(threads: 1)
        let (a, b) = (sample([6, 5], .float32, on: device), sample([5, 7], .float32, on: device))
        let row = sample([7], .float32, on: device)
        let recorder = OperationRecorder()
        device.recorder = recorder
        _ = Tensor.matmul(a, b) + row
        device.recorder = nil
        let spans = recorder.take()
        #expect(spans.map(\.name) == ["matmul", "add"])
        let flops: [Double] = [2 * 6 * 5 * 7, 0]
        #expect(spans.map(\.flops) == flops)
        // Four bytes for each element of [6, 5], [5, 7] and [6, 7]; the broadcast row [7] is read once.
        let bytes: [Double] = [4 * 107, 4 * 91]
        #expect(spans.map(\.bytes) == bytes)
    }

    /// Nothing is recorded unless somebody asked, and being recorded changes no bit.
    @Test func recordingChangesNothing() {
        let device = CPUDevice(threads: 2)
        let (x, w) = (sample([64, 48], .float32, on: device), sample([48], .float32, seed: 2, on: device))
        func compute() -> [Float] { (x.softmax() * w + x.sum(axes: [0])).exponential.values() }
        let plain = compute()
        let recorder = OperationRecorder()
        device.recorder = recorder
        let recorded = compute()
        device.recorder = nil
        #expect(plain == recorded)
        #expect(recorder.take().map(\.name).contains("softmax"))
        #expect(compute() == plain)
        #expect(recorder.take().isEmpty)
    }
}
