/// What a person has pressed.
enum Key: Equatable, Sendable {
    case character(Character)
    case up, down, pageUp, pageDown, home, end
    case enter, escape, backspace
    /// Ctrl-L, which everywhere draws the screen again.
    case redraw
}

/// Makes keys of the bytes that a terminal sends (ECMA-48 control sequences, as xterm and the Linux console send them).
/// It is a state machine without I/O; sequences may arrive in pieces.
struct KeyParser {
    private enum State {
        case ground
        /// ESC has come: the key, or the beginning of a sequence.
        case escape
        /// Within a control sequence, with its parameters so far.
        case sequence(parameters: [UInt8])
    }

    private var state = State.ground

    /// Whether ESC has come, and only time can tell whether it was the key.
    var isUndecided: Bool { if case .escape = state { true } else { false } }

    /// Nothing has followed for a while.
    mutating func pause() -> Key? {
        guard isUndecided else { return nil }
        state = .ground
        return .escape
    }

    mutating func parse(_ bytes: some Sequence<UInt8>) -> [Key] { bytes.compactMap { parse($0) } }

    private mutating func parse(_ byte: UInt8) -> Key? {
        switch state {
        case .ground:
            if byte == 0x1b {
                state = .escape
                return nil
            }
            return key(byte)
        case .escape:
            switch byte {
            case UInt8(ascii: "["), UInt8(ascii: "O"):
                state = .sequence(parameters: [])
                return nil
            case 0x1b: return .escape
            default:
                // Alt and a key: the key alone.
                state = .ground
                return key(byte)
            }
        case .sequence(var parameters):
            if (0x20...0x3f).contains(byte) {
                // A longer sequence than any key has is none.
                if parameters.count < 16 { parameters.append(byte) }
                state = .sequence(parameters: parameters)
                return nil
            }
            state = .ground
            return key(sequence: parameters, final: byte)
        }
    }

    private func key(_ byte: UInt8) -> Key? {
        switch byte {
        case 0x0d, 0x0a: .enter
        case 0x7f, 0x08: .backspace
        case 0x0c: .redraw
        case 0x20...0x7e: .character(Character(Unicode.Scalar(byte)))
        default: nil
        }
    }

    private func key(sequence parameters: [UInt8], final: UInt8) -> Key? {
        switch (final, parameters.first.map { Character(Unicode.Scalar($0)) }) {
        case (UInt8(ascii: "A"), _): .up
        case (UInt8(ascii: "B"), _): .down
        case (UInt8(ascii: "H"), _), (UInt8(ascii: "~"), "1"), (UInt8(ascii: "~"), "7"): .home
        case (UInt8(ascii: "F"), _), (UInt8(ascii: "~"), "4"), (UInt8(ascii: "~"), "8"): .end
        case (UInt8(ascii: "~"), "5"): .pageUp
        case (UInt8(ascii: "~"), "6"): .pageDown
        default: nil
        }
    }
}
