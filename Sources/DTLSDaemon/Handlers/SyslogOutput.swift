/// Messages are passed on to a syslog daemon as they are, but for the frame. One that has no PRI gets one.
final class SyslogOutput: LogOutput {
    private let socket: UnixLogSocket
    private var entry: [UInt8] = []

    init(_ socket: UnixLogSocket) { self.socket = socket }

    func write(_ record: LogRecord, from origin: LogOrigin) {
        entry.removeAll(keepingCapacity: true)
        switch record {
        case .plain:
            // daemon.info
            entry.append(contentsOf: "<30>\(origin.name): ".utf8)
        case .syslog(let message) where !message.hasPriority:
            // user.notice, as relays do (RFC 3164, section 4.3.3)
            entry.append(contentsOf: "<13>".utf8)
        case .syslog:
            break
        }
        entry.append(contentsOf: record.line)
        socket.send(entry, of: origin.name)
    }
}
