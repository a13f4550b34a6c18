import DTLSTransport
import Glibc
import LinuxSystem
import Primitives

/// `[service.NAME.log]`
struct LogConfiguration: Codable, Equatable, Sendable {
    var target: LogTarget
    var format: LogFormat

    /// Without a table.
    static let standard = LogConfiguration(target: .journal(socket: JournalSocket.standardPath), format: .plain)
}

/// Where messages are logged.
enum LogTarget: Codable, Hashable, Sendable {
    /// The journal, by the socket on which journald listens.
    case journal(socket: String)
    /// A file, by its absolute path.
    case file(String)
    /// A syslog daemon, by its Unix datagram socket.
    case syslog(socket: String)
}

/// What a datagram is, as `format` names it.
enum LogFormat: String, Codable, Sendable, CaseIterable {
    /// A text.
    case plain
    /// A message of syslog, or several of them in the frames of RFC 6012.
    case syslog
}

/// The keys of `[service.NAME.log]`.
enum LogKey: String, CaseIterable {
    case target = "to"
    case format
}

/// Reads `[service.NAME.log]`.
enum LogReader {
    private static let expected =
        "\"journal\", \"syslog\" or \"file:/PATH\"; the first two also with their socket, \"journal:/PATH\""

    static func read(_ table: TableReader<LogKey>) -> LogConfiguration? {
        let format = table.choice(.format, of: LogFormat.allCases.map(\.rawValue), LogFormat.init(rawValue:))
        guard table.has(.target) else {
            return LogConfiguration(target: LogConfiguration.standard.target, format: format ?? .plain)
        }
        guard let text = table.string(.target, expected) else { return nil }
        let parts = text.split(separator: ":", maxSplits: 1, omittingEmptySubsequences: false)
        let path = parts.count > 1 ? String(parts[1]) : nil
        switch (parts[0], path) {
        case ("journal", _):
            guard isSocket(path, table) else { return nil }
            return LogConfiguration(
                target: .journal(socket: path ?? JournalSocket.standardPath), format: format ?? .plain)
        case ("syslog", _):
            guard isSocket(path, table) else { return nil }
            return LogConfiguration(target: .syslog(socket: path ?? "/dev/log"), format: format ?? .syslog)
        case ("file", let path?):
            check(file: path, table)
            return LogConfiguration(target: .file(path), format: format ?? .plain)
        default:
            table.report(.target, "expected \(expected), found the string \(ReadContext.quoted(text))")
            return nil
        }
    }

    /// Nobody has to listen there yet.
    private static func isSocket(_ path: String?, _ table: TableReader<LogKey>) -> Bool {
        guard let path else { return true }
        if path.hasPrefix("/"), path.utf8.count <= maximumUnixPathLength { return true }
        table.report(
            .target,
            "expected the absolute path of a Unix datagram socket, at most \(maximumUnixPathLength) bytes, after"
                + " the colon, found \(ReadContext.quoted(path))")
        return false
    }

    /// The loader runs as the same user as the workers, so where it may write they may.
    private static func check(file path: String, _ table: TableReader<LogKey>) {
        let expected = "expected the absolute path of a file, in a folder that dtlsd's user may write to"
        let found = ReadContext.quoted(path)
        guard path.hasPrefix("/"), !path.hasSuffix("/") else {
            return table.report(.target, "\(expected), after \"file:\", found \(found)")
        }
        var status = stat()
        if stat(path, &status) == 0 {
            guard status.st_mode & S_IFMT == S_IFREG else {
                return table.report(.target, "\(found) is not a regular file; \(expected)")
            }
            if faccessat(AT_FDCWD, path, W_OK, AT_EACCESS) != 0 {
                table.report(.target, "cannot write to \(found): \(String(cString: strerror(errno))); \(expected)")
            }
            return
        }
        let folder = path.lastIndex(of: "/").map { $0 == path.startIndex ? "/" : String(path[..<$0]) } ?? "/"
        if faccessat(AT_FDCWD, folder, W_OK | X_OK, AT_EACCESS) != 0 {
            table.report(.target, "cannot make \(found): \(String(cString: strerror(errno))); \(expected)")
        }
    }
}
