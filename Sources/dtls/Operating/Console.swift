import CLinux
import Glibc

/// Where a command writes to: standard output, standard error, and what is known of them.
struct Console {
    /// Columns of the terminal that standard output is; `nil` where it is none.
    let width: Int?
    let usesColour: Bool
    /// Whether somebody can be asked: standard input and standard error are terminals.
    let isInteractive: Bool

    static var standard: Console {
        let isTerminal = isatty(STDOUT_FILENO) == 1
        return Console(
            width: isTerminal ? (TerminalSize.ofTerminal(STDOUT_FILENO)?.columns ?? 80) : nil,
            usesColour: isTerminal && Environment.allowsColour,
            isInteractive: isatty(STDIN_FILENO) == 1 && isatty(STDERR_FILENO) == 1)
    }

    func print(_ lines: [StyledLine]) throws(ToolFailure) {
        try write(lines.map { $0.encoded(inColour: usesColour) + "\n" }.joined())
    }

    func print(_ line: StyledLine) throws(ToolFailure) { try print([line]) }

    /// Writes text that is safe for a terminal to standard output.
    func write(_ text: String) throws(ToolFailure) {
        if let code = Self.write(text, to: STDOUT_FILENO) {
            throw ToolFailure(.failed, "Standard output cannot be written: \(String(cString: strerror(code))).")
        }
    }

    /// Writes a line beside the output: a hint, a question, or what went wrong.
    func note(_ text: String, terminator: String = "\n") {
        _ = Self.write(TerminalText.printable(text) + terminator, to: STDERR_FILENO)
    }

    /// Asks a question whose answer is yes or no.
    func confirm(_ question: String) -> Bool {
        note("\(question) [y/N] ", terminator: "")
        return ["y", "yes"].contains(readLine()?.lowercased() ?? "")
    }

    /// - Returns: the errno of a write that has failed.
    static func write(_ text: String, to descriptor: Int32) -> Int32? {
        var text = text
        return text.withUTF8 { bytes in
            var rest = UnsafeRawBufferPointer(bytes)
            while !rest.isEmpty {
                let written = Glibc.write(descriptor, rest.baseAddress, rest.count)
                if written >= 0 {
                    rest = UnsafeRawBufferPointer(rebasing: rest.dropFirst(written))
                } else if errno == EAGAIN {
                    // Somebody has made the terminal non-blocking for all who share it.
                    var poll = pollfd(fd: descriptor, events: Int16(POLLOUT), revents: 0)
                    _ = Glibc.poll(&poll, 1, -1)
                } else if errno != EINTR {
                    return errno
                }
            }
            return nil
        }
    }
}

/// What the environment says of the terminal.
enum Environment {
    static subscript(_ name: String) -> String? {
        guard let value = getenv(name) else { return nil }
        return String(cString: value)
    }

    /// By https://no-color.org, and TERM.
    static var allowsColour: Bool { (Self["NO_COLOR"] ?? "").isEmpty && isTerminalCapable }

    /// Whether the terminal is said to obey escape sequences.
    static var isTerminalCapable: Bool { !["", "dumb"].contains(Self["TERM"] ?? "") }
}

/// The columns and rows of a terminal.
struct TerminalSize: Equatable, Sendable {
    var columns: Int
    var rows: Int

    /// `nil` where the descriptor is no terminal, or one that does not know its size.
    static func ofTerminal(_ descriptor: Int32) -> TerminalSize? {
        var size = winsize()
        guard ioctl(descriptor, UInt(TIOCGWINSZ), &size) == 0, size.ws_col > 0, size.ws_row > 0 else { return nil }
        return TerminalSize(columns: Int(size.ws_col), rows: Int(size.ws_row))
    }
}
