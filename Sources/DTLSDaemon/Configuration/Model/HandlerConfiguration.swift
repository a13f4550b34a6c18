import LinuxSystem

/// What becomes of a service's datagrams.
enum HandlerConfiguration: Codable, Equatable, Sendable {
    /// Every datagram goes back to its sender.
    case echo
    /// Every connection gets a socket of its own to the backend.
    case forward(ForwardConfiguration)
    /// Every connection gets a program of its own.
    case exec(ExecConfiguration)
    /// Every datagram is logged.
    case log(LogConfiguration)
}

/// `[service.NAME.forward]`
struct ForwardConfiguration: Codable, Equatable, Sendable {
    /// At least one, each of them once. A client's address decides which of them it has.
    var backends: [Backend]
    /// Whether each datagram to a backend begins with a header of the PROXY protocol.
    var proxyProtocol = false
}

struct Backend: Codable, Equatable, Sendable, CustomStringConvertible {
    enum Address: Codable, Hashable, Sendable {
        case udp(SocketAddress)
        /// A Unix datagram socket's path.
        case unix(String)
    }

    /// As the file has it. It decides which clients the backend gets, so a host name keeps its clients when its address
    /// changes.
    var name: String
    var address: Address

    var description: String {
        switch address {
        case .udp(let address): "udp:\(address)"
        case .unix(let path): "unix:\(path)"
        }
    }
}

extension HandlerConfiguration {
    /// Where its datagrams go; empty for a handler that sends nowhere.
    var backends: [Backend] {
        if case .forward(let forward) = self { forward.backends } else { [] }
    }
}

/// `[service.NAME.exec]`
struct ExecConfiguration: Codable, Equatable, Sendable {
    /// The program's absolute path, and its arguments.
    var command: [String]
    /// How many of the service's programs one worker has at most, 1 to 10,000.
    var programsPerWorker = 100
    var limits = ForeignProgram.Limits(openFiles: 1_024)
}

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

/// How a datagram is taken, as `format` names it.
enum LogFormat: String, Codable, Sendable, CaseIterable {
    /// A text.
    case plain
    /// A message of syslog, or several of them in the frames of RFC 6012.
    case syslog
}
