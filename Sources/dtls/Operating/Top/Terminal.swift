import CLinux
import Glibc
import LinuxSystem

/// The terminal that a full-screen program draws on. Whatever it changes is as before after ``leave()``, which `deinit`
/// calls, too.
final class Terminal {
    private let original: termios
    private var isEntered = false

    /// `nil` where standard input and output are not both a terminal that obeys escape sequences.
    init?() {
        var settings = termios()
        guard isatty(STDIN_FILENO) == 1, isatty(STDOUT_FILENO) == 1, Environment.isTerminalCapable,
            tcgetattr(STDIN_FILENO, &settings) == 0
        else { return nil }
        original = settings
    }

    deinit { leave() }

    var size: TerminalSize { TerminalSize.ofTerminal(STDOUT_FILENO) ?? TerminalSize(columns: 80, rows: 24) }

    /// Has the terminal send each key at once, without showing it, and changes to its other screen. Ctrl-C and Ctrl-Z go
    /// on to send signals.
    func enter() {
        isEntered = true
        var settings = original
        settings.c_lflag &= ~tcflag_t(ICANON | ECHO | IEXTEN)
        settings.c_iflag &= ~tcflag_t(IXON)
        withUnsafeMutableBytes(of: &settings.c_cc) { characters in
            characters[Int(VMIN)] = 0
            characters[Int(VTIME)] = 0
        }
        tcsetattr(STDIN_FILENO, TCSANOW, &settings)
        // The other screen, without a cursor, and lines that are cut rather than wrapped (xterm's ctlseqs: DECSET 1049,
        // DECRST 25 and 7).
        _ = Console.write("\u{1b}[?1049h\u{1b}[?25l\u{1b}[?7l\u{1b}[2J", to: STDOUT_FILENO)
    }

    func leave() {
        guard isEntered else { return }
        isEntered = false
        _ = Console.write("\u{1b}[?7h\u{1b}[?25h\u{1b}[?1049l", to: STDOUT_FILENO)
        // What was typed ahead is not for the shell.
        tcsetattr(STDIN_FILENO, TCSAFLUSH, [original])
    }

    /// - Parameter lines: as many as the terminal has rows.
    /// - Returns: false when the terminal is gone.
    func draw(_ lines: [StyledLine], inColour: Bool, fromScratch: Bool) -> Bool {
        var text = fromScratch ? "\u{1b}[2J\u{1b}[H" : "\u{1b}[H"
        for (index, line) in lines.enumerated() {
            if index > 0 { text += "\r\n" }
            text += line.encoded(inColour: inColour) + "\u{1b}[K"
        }
        return Console.write(text, to: STDOUT_FILENO) == nil
    }

    /// The bytes of the keys that were pressed; `nil` when the terminal is gone.
    func read() -> [UInt8]? {
        withUnsafeTemporaryAllocation(byteCount: 256, alignment: 1) { buffer in
            let count = Glibc.read(STDIN_FILENO, buffer.baseAddress, buffer.count)
            if count < 0, errno != EAGAIN, errno != EINTR { return nil }
            return Array(buffer.prefix(max(0, count)))
        }
    }
}
