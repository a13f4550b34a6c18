import Testing

@testable import DTLSDaemon

/// What becomes of a message with handler "log": nothing here opens a socket or a file.
@Suite struct DatagramLogHandlerTests {
    private static let origin = LogOrigin(service: "collect", peer: "192.0.2.1:40000", client: "sensor-7")

    /// Keeps what a target would be given.
    private final class Recorder: LogOutput {
        let encoding: LogRecordEncoding?
        private(set) var entries: [String] = []
        private(set) var flushes = 0

        /// - Parameter encoding: `nil` for a file.
        init(_ encoding: LogRecordEncoding?) { self.encoding = encoding }

        func write(_ record: LogRecord, from origin: LogOrigin) {
            var entry: [UInt8] = []
            if let encoding {
                encoding.append(record, from: origin, to: &entry)
            } else {
                LogRecordEncoding.appendLine(record, from: origin, to: &entry)
            }
            entries.append(String(decoding: entry, as: UTF8.self))
        }

        func flush() { flushes += 1 }
        func reopen() {}
    }

    /// - Returns: what the target gets for these messages.
    private func entries(
        _ messages: [String], _ format: LogFormat, _ encoding: LogRecordEncoding?, _ origin: LogOrigin = origin
    ) -> [String] {
        let recorder = Recorder(encoding)
        let handler = DatagramLogHandler(format, to: recorder, from: origin)
        for message in messages { Array(message.utf8).withUnsafeBytes { handler.log($0) } }
        return recorder.entries
    }

    /// The fields of an entry without values of several lines, by their names.
    private func fields(_ entry: String) -> [String: String] {
        var fields: [String: String] = [:]
        for line in entry.split(separator: "\n") {
            let parts = line.split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false)
            if parts.count == 2 { fields[String(parts[0])] = String(parts[1]) }
        }
        return fields
    }

    @Test func `a plain message is one line of a file`() {
        #expect(
            entries(["temperature 21\r\n", "two\nlines", "\u{1b}[31m"], .plain, nil) == [
                "192.0.2.1:40000 sensor-7 temperature 21\n", "192.0.2.1:40000 sensor-7 two\\nlines\n",
                "192.0.2.1:40000 sensor-7 \\x1b[31m\n",
            ])
    }

    @Test func `a client without a name is a dash and one with spaces is quoted`() {
        let nameless = LogOrigin(service: "collect", peer: "192.0.2.1:40000", client: nil)
        #expect(entries(["x"], .plain, nil, nameless) == ["192.0.2.1:40000 - x\n"])
        let spaced = LogOrigin(service: "collect", peer: "192.0.2.1:40000", client: "a b")
        #expect(entries(["x"], .plain, nil, spaced) == ["192.0.2.1:40000 \"a b\" x\n"])
    }

    @Test func `a plain message is one entry of the journal with its origin`() throws {
        let entry = try #require(entries(["temperature 21"], .plain, .journal).first)
        #expect(
            fields(entry) == [
                "MESSAGE_ID": "69d7b53a4a534ffba63f2a0fd8ee7c6f", "SERVICE": "collect", "PEER": "192.0.2.1:40000",
                "CLIENT": "sensor-7", "PRIORITY": "6", "SYSLOG_IDENTIFIER": "collect", "MESSAGE": "temperature 21",
            ])
    }

    @Test func `a syslog message has the journal's fields for it`() throws {
        let message = "<34>1 2003-10-11T22:14:15.003Z host su 77 ID47 [a b=\"c\"] 'su root' failed"
        let entry = try #require(entries([message], .syslog, .journal).first)
        let found = fields(entry)
        #expect(found["PRIORITY"] == "2" && found["SYSLOG_FACILITY"] == "4")
        #expect(found["SYSLOG_IDENTIFIER"] == "su" && found["SYSLOG_PID"] == "77")
        #expect(found["SYSLOG_TIMESTAMP"] == "2003-10-11T22:14:15.003Z" && found["SYSLOG_HOSTNAME"] == "host")
        #expect(found["SYSLOG_MSGID"] == "ID47" && found["SYSLOG_STRUCTURED_DATA"] == "[a b=\"c\"]")
        #expect(found["MESSAGE"] == "'su root' failed" && found["SERVICE"] == "collect")
    }

    @Test func `a syslog message without an identifier has the service's name`() throws {
        let entry = try #require(entries(["<13>hello"], .syslog, .journal).first)
        #expect(fields(entry)["SYSLOG_IDENTIFIER"] == "collect")
    }

    @Test func `a syslog daemon gets messages as they are and a priority where they have none`() {
        #expect(entries(["<34>hello\n"], .syslog, .syslog) == ["<34>hello"])
        #expect(entries(["hello"], .syslog, .syslog) == ["<13>hello"])
        #expect(entries(["hello"], .plain, .syslog) == ["<30>collect: hello"])
    }

    @Test func `each frame of a datagram is one entry`() {
        #expect(
            entries(["9 <13>hello9 <14>world"], .syslog, .syslog) == ["<13>hello", "<14>world"])
        // A plain datagram has no frames.
        #expect(entries(["9 <13>hello"], .plain, nil) == ["192.0.2.1:40000 sensor-7 9 <13>hello\n"])
    }
}
