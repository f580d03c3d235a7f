import TensorCore
import Testing

/// A wrong shape stops the program with both shapes in the message, in release builds too.
@Suite struct ShapeFaultTests {
    private func expect(
        _ result: ExitTest.Result?, _ words: [String], sourceLocation: SourceLocation = #_sourceLocation
    ) {
        let text = String(decoding: result?.standardErrorContent ?? [], as: UTF8.self)
        for word in words { #expect(text.contains(word), "\(word) in: \(text)", sourceLocation: sourceLocation) }
    }

    @Test func productNamesBothShapes() async {
        let result = await #expect(processExitsWith: .failure, observing: [\.standardErrorContent]) {
            let device = CPUDevice(threads: 1)
            _ = Tensor.matmul(.zeros([2, 3], on: device), .zeros([4, 5], on: device))
        }
        expect(result, ["matmul", "[2, 3]", "[4, 5]"])
    }

    @Test func broadcastNamesBothShapes() async {
        let result = await #expect(processExitsWith: .failure, observing: [\.standardErrorContent]) {
            let device = CPUDevice(threads: 1)
            _ = Tensor.zeros([2, 3], on: device) + Tensor.zeros([2, 4], on: device)
        }
        expect(result, ["add", "[2, 3]", "[2, 4]"])
    }

    @Test func repeatedAxisIsNamed() async {
        let result = await #expect(processExitsWith: .failure, observing: [\.standardErrorContent]) {
            _ = Tensor.zeros([2, 3], on: CPUDevice(threads: 1)).sum(axes: [0, -2])
        }
        expect(result, ["sum", "[0, -2]", "[2, 3]"])
    }

    @Test func optimizerRefusesMixedElementTypes() async {
        let result = await #expect(processExitsWith: .failure, observing: [\.standardErrorContent]) {
            let device = CPUDevice(threads: 1)
            let (w, g) = (Tensor.zeros([4], on: device), Tensor.zeros([4], .bfloat16, on: device))
            device.sgd(rate: 1, momentum: 0, decay: 0, gradientScale: 1, weight: w, gradient: g, buffer: nil)
        }
        expect(result, ["float32[4]", "bfloat16[4]"])
    }
}
