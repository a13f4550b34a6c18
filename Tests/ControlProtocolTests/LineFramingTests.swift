import ControlProtocol
import Testing

@Suite struct LineFramingTests {
    private func pieces(_ chunks: [[UInt8]], maximum: Int = 16) -> [LineFraming.Piece] {
        var framing = LineFraming(maximum: maximum)
        var pieces: [LineFraming.Piece] = []
        for chunk in chunks {
            chunk.withUnsafeBytes { framing.append($0) }
            while let piece = framing.next() { pieces.append(piece) }
        }
        return pieces
    }

    @Test func `a stream in parts of any size has the same lines`() {
        let text = Array("one\ntwo\r\n\nfour\n".utf8)
        let expected = ["one", "two", "", "four"].map { LineFraming.Piece.line(Array($0.utf8)) }
        for size in 1...text.count {
            let chunks = stride(from: 0, to: text.count, by: size).map {
                Array(text[$0..<min($0 + size, text.count)])
            }
            #expect(pieces(chunks) == expected, "parts of \(size) bytes")
        }
    }

    @Test func `half a line is none`() {
        var framing = LineFraming(maximum: 16)
        Array("half".utf8).withUnsafeBytes { framing.append($0) }
        #expect(framing.next() == nil)
        #expect(framing.isInLine)
        #expect(framing.count == 4)
        Array("\n".utf8).withUnsafeBytes { framing.append($0) }
        #expect(framing.next() == .line(Array("half".utf8)))
        #expect(!framing.isInLine)
    }

    @Test func `a line of the longest length is one, and a longer one ends all`() {
        let longest = [UInt8](repeating: 65, count: 16)
        #expect(pieces([longest + [10]]) == [.line(longest)])
        #expect(pieces([longest + [13, 10]]) == [.line(longest)])
        #expect(pieces([longest + [65, 10], Array("more\n".utf8)]) == [.tooLong])
        #expect(pieces([longest + [65, 65]]) == [.tooLong])
    }

    @Test func `a gigabyte without a line feed leaves nothing in memory`() {
        var framing = LineFraming(maximum: 65_536)
        let chunk = [UInt8](repeating: 0, count: 1_048_576)
        var found: [LineFraming.Piece] = []
        for _ in 0..<1_024 {
            chunk.withUnsafeBytes { framing.append($0) }
            while let piece = framing.next() { found.append(piece) }
            #expect(framing.count == 0)
        }
        #expect(found == [.tooLong])
    }
}
