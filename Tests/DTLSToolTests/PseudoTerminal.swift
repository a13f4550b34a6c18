import CLinux
import Foundation
import Synchronization
import TestSupport

/// A program in a terminal of its own, which this object is the other end of.
final class PseudoTerminal {
    let pid: pid_t
    private let master: Int32
    /// The terminal itself, kept open so that its settings can be read after the program has ended.
    private let slave: Int32
    private var written: [UInt8] = []
    private var status: Int32?

    struct CannotStart: Error {}

    init(_ arguments: [String], columns: UInt16, rows: UInt16, environment: [String] = []) throws {
        master = open("/dev/ptmx", O_RDWR | O_NOCTTY | O_CLOEXEC | O_NONBLOCK)
        var unlocked: Int32 = 0
        var number: Int32 = 0
        // TIOCSPTLCK and TIOCGPTN of asm-generic/ioctls.h: unlockpt(3) and ptsname(3).
        guard master >= 0, ioctl(master, 0x4004_5431, &unlocked) == 0, ioctl(master, 0x8004_5430, &number) == 0 else {
            throw CannotStart()
        }
        let path = "/dev/pts/\(number)"
        slave = open(path, O_RDWR | O_NOCTTY | O_CLOEXEC)
        guard slave >= 0 else { throw CannotStart() }
        var size = winsize(ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0)
        _ = ioctl(slave, UInt(TIOCSWINSZ), &size)

        var actions = posix_spawn_file_actions_t()
        posix_spawn_file_actions_init(&actions)
        defer { posix_spawn_file_actions_destroy(&actions) }
        // The first terminal that the leader of a new session opens is the session's.
        for descriptor: Int32 in 0...2 { posix_spawn_file_actions_addopen(&actions, descriptor, path, O_RDWR, 0) }
        cl_spawn_close_from(&actions, 3)
        var attributes = posix_spawnattr_t()
        posix_spawnattr_init(&attributes)
        defer { posix_spawnattr_destroy(&attributes) }
        var signals = sigset_t()
        sigemptyset(&signals)
        posix_spawnattr_setsigmask(&attributes, &signals)
        sigfillset(&signals)
        posix_spawnattr_setsigdefault(&attributes, &signals)
        // POSIX_SPAWN_SETSID of spawn.h, which declares it only for _GNU_SOURCE.
        posix_spawnattr_setflags(&attributes, Int16(POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF | 0x80))
        var words: [UnsafeMutablePointer<CChar>?] = arguments.map { strdup($0) } + [nil]
        var variables: [UnsafeMutablePointer<CChar>?] =
            (["TERM=xterm", "NO_COLOR=1"] + environment).map { strdup($0) } + [nil]
        defer { for word in words + variables { free(word) } }
        var started: pid_t = 0
        let code = Program.starting.withLock { _ in
            posix_spawn(&started, arguments[0], &actions, &attributes, &words, &variables)
        }
        guard code == 0 else { throw CannotStart() }
        pid = started
    }

    deinit {
        if status == nil {
            kill(pid, SIGKILL)
            var status: Int32 = 0
            waitpid(pid, &status, 0)
        }
        close(master)
        close(slave)
    }

    func type(_ text: String) { _ = text.withCString { write(master, $0, strlen($0)) } }

    func resize(columns: UInt16, rows: UInt16) {
        var size = winsize(ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0)
        _ = ioctl(master, UInt(TIOCSWINSZ), &size)
    }

    /// All that the program has written so far.
    var output: String {
        var buffer = [UInt8](repeating: 0, count: 65_536)
        while true {
            let count = read(master, &buffer, buffer.count)
            guard count > 0 else { break }
            written += buffer[..<count]
        }
        return String(decoding: written, as: UTF8.self)
    }

    /// The lines of the last picture that is whole: one that another one, or something else, has followed.
    var screen: [String]? {
        let pictures = output.components(separatedBy: "\u{1b}[H").dropFirst().dropLast()
        return pictures.last.map { picture in
            picture.components(separatedBy: "\r\n").map { line in
                String(line.prefix { $0 != "\u{1b}" })
            }
        }
    }

    /// Whether the terminal shows what is typed and hands it on by lines, as it does for a shell.
    var isOrdinary: Bool {
        var settings = termios()
        return tcgetattr(slave, &settings) == 0 && settings.c_lflag & tcflag_t(ECHO | ICANON) == tcflag_t(ECHO | ICANON)
    }

    /// Whether the last thing that was written to the terminal leads back to its ordinary screen, with a cursor.
    var isRestored: Bool { isOrdinary && output.hasSuffix("\u{1b}[?7h\u{1b}[?25h\u{1b}[?1049l") }

    /// How it has ended; `nil` while it runs.
    var ending: Program.Ending? {
        var status = self.status ?? 0
        if self.status == nil {
            guard waitpid(pid, &status, WNOHANG) == pid else { return nil }
            self.status = status
        }
        return cl_wifsignaled(status) != 0 ? .killed(cl_wtermsig(status)) : .exited(cl_wexitstatus(status))
    }
}
