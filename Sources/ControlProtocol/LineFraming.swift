/// Cuts a stream of bytes into lines, without I/O. It never holds more than one line of the longest length and what came
/// with the last read.
package struct LineFraming {
    package enum Piece: Equatable {
        /// A line without its line feed, and without a carriage return before that.
        case line([UInt8])
        /// The line that has begun is too long. It is the last piece: nothing that follows is kept.
        case tooLong
    }

    private let maximum: Int
    private var hasOverflown = false
    private var bytes: [UInt8] = []
    /// Bytes at the start of ``bytes`` that have been returned as lines.
    private var consumed = 0
    /// Bytes in which there is no line feed after ``consumed``.
    private var searched = 0

    /// - Parameter maximum: bytes of the longest line, without its line feed.
    package init(maximum: Int) { self.maximum = maximum }

    /// Bytes that have come and have not been returned.
    package var count: Int { bytes.count - consumed }

    /// Whether a line has begun and not ended.
    package var isInLine: Bool { count > 0 }

    /// Adds what was read from the stream.
    package mutating func append(_ new: UnsafeRawBufferPointer) {
        guard !hasOverflown else { return }
        if consumed > 0 {
            bytes.removeFirst(consumed)
            searched -= consumed
            consumed = 0
        }
        bytes.append(contentsOf: new)
    }

    /// The next line that is whole; `nil` where more has to be read first.
    package mutating func next() -> Piece? {
        guard !hasOverflown else { return nil }
        searched = max(searched, consumed)
        guard let end = bytes[searched...].firstIndex(of: UInt8(ascii: "\n")) else {
            searched = bytes.count
            // A carriage return may still turn out to belong to the end of the line.
            guard count > maximum + 1 else { return nil }
            return overflow()
        }
        var line = bytes[consumed..<end]
        if line.last == UInt8(ascii: "\r") { line.removeLast() }
        guard line.count <= maximum else { return overflow() }
        let piece = Piece.line(Array(line))
        consumed = end + 1
        if consumed == bytes.count {
            // Memory of a long line is given back.
            bytes = []
            consumed = 0
            searched = 0
        }
        return piece
    }

    private mutating func overflow() -> Piece {
        hasOverflown = true
        bytes = []
        consumed = 0
        searched = 0
        return .tooLong
    }
}
