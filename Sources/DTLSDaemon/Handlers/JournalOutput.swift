/// Each message is one entry of the journal.
final class JournalOutput: LogOutput {
    private let socket: UnixLogSocket
    private var entry: [UInt8] = []

    init(_ socket: UnixLogSocket) { self.socket = socket }

    func write(_ record: LogRecord, from origin: LogOrigin) {
        entry.removeAll(keepingCapacity: true)
        entry.append(contentsOf: origin.journalFields)
        switch record {
        case .plain:
            JournalEncoding.append("PRIORITY", "6", to: &entry)
            JournalEncoding.append("SYSLOG_IDENTIFIER", origin.name, to: &entry)
            JournalEncoding.append("MESSAGE", record.line, to: &entry)
        case .syslog(let message):
            append(message, origin)
        }
        socket.send(entry, of: origin.name)
    }

    /// The names that journald gives to what comes from syslog (systemd.journal-fields(7)), as far as it has any.
    private func append(_ message: SyslogMessage, _ origin: LogOrigin) {
        JournalEncoding.append("PRIORITY", "\(message.severity)", to: &entry)
        JournalEncoding.append("SYSLOG_FACILITY", "\(message.facility)", to: &entry)
        if let identifier = message.identifier {
            JournalEncoding.append("SYSLOG_IDENTIFIER", identifier, to: &entry)
        } else {
            JournalEncoding.append("SYSLOG_IDENTIFIER", origin.name, to: &entry)
        }
        append("SYSLOG_PID", message.processID)
        append("SYSLOG_TIMESTAMP", message.timestamp)
        append("SYSLOG_HOSTNAME", message.hostname)
        append("SYSLOG_MSGID", message.messageID)
        append("SYSLOG_STRUCTURED_DATA", message.structuredData)
        JournalEncoding.append("MESSAGE", message.text, to: &entry)
    }

    private func append(_ name: StaticString, _ value: UnsafeRawBufferPointer?) {
        if let value { JournalEncoding.append(name, value, to: &entry) }
    }
}
