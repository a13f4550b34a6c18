import DTLSEngine
import DTLSTransport
import Primitives

/// A message that is to be logged. Its bytes are the datagram's own, and valid as long as that is.
enum LogRecord {
    case plain(UnsafeRawBufferPointer)
    case syslog(SyslogMessage)

    /// The whole message, without the line end that many senders append.
    var line: UnsafeRawBufferPointer {
        switch self {
        case .plain(let bytes): Self.withoutLineEnd(bytes)
        case .syslog(let message): message.whole
        }
    }

    private static func withoutLineEnd(_ bytes: UnsafeRawBufferPointer) -> UnsafeRawBufferPointer {
        var end = bytes.count
        if end > 0, bytes[end - 1] == UInt8(ascii: "\n") { end -= 1 }
        if end > 0, end < bytes.count, bytes[end - 1] == UInt8(ascii: "\r") { end -= 1 }
        return UnsafeRawBufferPointer(rebasing: bytes[..<end])
    }
}

/// Where messages come from: what all messages of one connection have in common.
final class LogOrigin: Sendable {
    /// The service's name.
    let service: String
    /// The fields SERVICE, PEER, CLIENT and MESSAGE_ID, as the journal takes them.
    let journalFields: [UInt8]
    /// `192.0.2.1:40000 sensor-7 `
    let linePrefix: [UInt8]

    /// The MESSAGE_ID by which the journal finds all messages that were logged for clients. Never change it.
    private static let journalMessageID = "69d7b53a4a534ffba63f2a0fd8ee7c6f"

    convenience init(_ client: ServedClient, _ service: ServiceRuntime) {
        self.init(
            service: service.configuration.name, peer: "\(client.flow.peer)", client: client.session.peerName?.name)
    }

    init(service: String, peer: String, client: String?) {
        self.service = service
        var fields: [UInt8] = []
        JournalEncoding.append("MESSAGE_ID", Self.journalMessageID, to: &fields)
        JournalEncoding.append("SERVICE", service, to: &fields)
        JournalEncoding.append("PEER", peer, to: &fields)
        if let client { JournalEncoding.append("CLIENT", client, to: &fields) }
        journalFields = fields
        linePrefix = Array("\(peer) \(client.map(TextEncoding.value) ?? "-") ".utf8)
    }
}

/// How a message is written for one kind of target.
enum LogRecordEncoding {
    /// An entry of the journal, in its native protocol.
    case journal
    /// A datagram for a syslog daemon: the message as it is, but without its frame, and with a PRI where it has none.
    case syslog

    func append(_ record: LogRecord, from origin: LogOrigin, to entry: inout [UInt8]) {
        switch self {
        case .journal: Self.appendJournalEntry(record, origin, to: &entry)
        case .syslog: Self.appendSyslogDatagram(record, origin, to: &entry)
        }
    }

    /// Appends `PEER CLIENT MESSAGE` and a line end, for a file.
    static func appendLine(_ record: LogRecord, from origin: LogOrigin, to buffer: inout [UInt8]) {
        buffer.append(contentsOf: origin.linePrefix)
        Printable.append(record.line, to: &buffer)
        buffer.append(UInt8(ascii: "\n"))
    }

    private static func appendSyslogDatagram(_ record: LogRecord, _ origin: LogOrigin, to entry: inout [UInt8]) {
        switch record {
        case .plain:
            // The PRI of daemon.info.
            entry.append(contentsOf: "<30>\(origin.service): ".utf8)
        case .syslog(let message) where !message.hasPriority:
            // The PRI of user.notice, as relays add it (RFC 3164, section 4.3.3).
            entry.append(contentsOf: "<13>".utf8)
        case .syslog:
            break
        }
        entry.append(contentsOf: record.line)
    }

    private static func appendJournalEntry(_ record: LogRecord, _ origin: LogOrigin, to entry: inout [UInt8]) {
        entry.append(contentsOf: origin.journalFields)
        switch record {
        case .plain:
            JournalEncoding.append("PRIORITY", "6", to: &entry)
            JournalEncoding.append("SYSLOG_IDENTIFIER", origin.service, to: &entry)
            JournalEncoding.append("MESSAGE", record.line, to: &entry)
        case .syslog(let message):
            appendSyslogFields(message, origin, to: &entry)
        }
    }

    /// Appends the fields that journald makes of what comes from syslog (systemd.journal-fields(7)).
    private static func appendSyslogFields(_ message: SyslogMessage, _ origin: LogOrigin, to entry: inout [UInt8]) {
        func append(_ name: StaticString, _ value: UnsafeRawBufferPointer?) {
            if let value { JournalEncoding.append(name, value, to: &entry) }
        }
        JournalEncoding.append("PRIORITY", "\(message.severity)", to: &entry)
        JournalEncoding.append("SYSLOG_FACILITY", "\(message.facility)", to: &entry)
        if let identifier = message.identifier {
            append("SYSLOG_IDENTIFIER", identifier)
        } else {
            JournalEncoding.append("SYSLOG_IDENTIFIER", origin.service, to: &entry)
        }
        append("SYSLOG_PID", message.processID)
        append("SYSLOG_TIMESTAMP", message.timestamp)
        append("SYSLOG_HOSTNAME", message.hostname)
        append("SYSLOG_MSGID", message.messageID)
        append("SYSLOG_STRUCTURED_DATA", message.structuredData)
        append("MESSAGE", message.text)
    }
}

extension Printable {
    /// Appends any bytes as a part of one line. What is not printable UTF-8 is escaped, and so is the backslash, so that
    /// the line can be turned into the bytes again.
    static func append(_ bytes: UnsafeRawBufferPointer, to line: inout [UInt8]) {
        if bytes.allSatisfy({ $0 >= 0x20 && $0 < 0x7f && $0 != UInt8(ascii: "\\") }) {
            line.append(contentsOf: bytes)
            return
        }
        var rest = bytes[...]
        while let byte = rest.first {
            if byte < 0x80 {
                appendASCII(byte, to: &line)
                rest = rest.dropFirst()
                continue
            }
            let length = byte >= 0xf0 ? 4 : byte >= 0xe0 ? 3 : 2
            let scalar = Array(rest.prefix(length))
            guard let text = String(validating: scalar, as: UTF8.self), let first = text.unicodeScalars.first,
                text.unicodeScalars.count == 1
            else {
                appendHexadecimal(byte, to: &line)
                rest = rest.dropFirst()
                continue
            }
            let isPrintable = isPrintable(first)
            line.append(contentsOf: isPrintable ? scalar : Array("\\u{\(String(first.value, radix: 16))}".utf8))
            rest = rest.dropFirst(length)
        }
    }

    private static func appendASCII(_ byte: UInt8, to line: inout [UInt8]) {
        switch byte {
        case UInt8(ascii: "\n"): line.append(contentsOf: "\\n".utf8)
        case UInt8(ascii: "\r"): line.append(contentsOf: "\\r".utf8)
        case UInt8(ascii: "\t"): line.append(contentsOf: "\\t".utf8)
        case UInt8(ascii: "\\"): line.append(contentsOf: "\\\\".utf8)
        case 0x20...0x7e: line.append(byte)
        default: appendHexadecimal(byte, to: &line)
        }
    }

    /// `\x1b`
    private static func appendHexadecimal(_ byte: UInt8, to line: inout [UInt8]) {
        line.append(contentsOf: (byte < 0x10 ? "\\x0" : "\\x").utf8)
        line.append(contentsOf: String(byte, radix: 16).utf8)
    }
}
