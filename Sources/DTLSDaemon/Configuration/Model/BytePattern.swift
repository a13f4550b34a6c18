import Primitives

/// A text with wildcards, against which names and datagrams are compared: `*` stands for any number of bytes, none
/// included. `\*` and `\\` are the characters themselves.
struct BytePattern: Codable, Equatable, Sendable {
    /// What is between the wildcards; one more than there are wildcards.
    private var pieces: [[UInt8]]

    /// - Parameter pieces: what is between the wildcards; at least one.
    init(pieces: [[UInt8]]) { self.pieces = pieces }

    /// Why a text is no pattern, as a whole sentence without its full stop.
    struct Mistake: Error, Equatable {
        let description: String
    }

    init(_ text: String) throws(Mistake) {
        pieces = [[]]
        var rest = Array(text.utf8)[...]
        while let byte = rest.popFirst() {
            switch byte {
            case UInt8(ascii: "*"): pieces.append([])
            case UInt8(ascii: "\\"):
                guard let next = rest.popFirst(), [UInt8(ascii: "*"), UInt8(ascii: "\\")].contains(next) else {
                    throw Mistake(description: "a backslash stands before * or another backslash only")
                }
                pieces[pieces.count - 1].append(next)
            default: pieces[pieces.count - 1].append(byte)
            }
        }
    }

    /// The same for ASCII letters of either case, of what is compared in lower case.
    var lowercased: BytePattern {
        var result = self
        result.pieces = pieces.map { $0.asciiLowercased() }
        return result
    }

    func matches(_ bytes: some RandomAccessCollection<UInt8>) -> Bool {
        guard let first = pieces.first, let last = pieces.last, bytes.starts(with: first) else { return false }
        guard pieces.count > 1 else { return bytes.count == first.count }
        guard bytes.count >= first.count + last.count, bytes.suffix(last.count).elementsEqual(last) else {
            return false
        }
        // What the wildcards and the pieces between them have to make up. The first place of each piece leaves most room.
        var rest = bytes.dropFirst(first.count).dropLast(last.count)
        for piece in pieces.dropFirst().dropLast() {
            while !rest.starts(with: piece) {
                if rest.isEmpty { return false }
                rest = rest.dropFirst()
            }
            rest = rest.dropFirst(piece.count)
        }
        return true
    }

    func matches(_ text: String) -> Bool { matches(Array(text.utf8)) }
}
