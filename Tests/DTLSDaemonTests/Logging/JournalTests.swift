import Foundation
import Glibc
import LinuxSystem
import Logging
import Testing

@testable import DTLSDaemon

@Suite struct JournalTests {
    @Test func `an event reaches the journal with all of its fields`() throws {
        let journal = try FakeJournal()
        let logger = try journal.logger(role: "worker 3")
        logger.log(
            .connectionOpened, "192.0.2.1:5000 connected", ["PEER": "192.0.2.1:5000", "HANDSHAKE_USEC": "\(1234)"])
        #expect(
            try journal.entries() == [
                [
                    "MESSAGE": "192.0.2.1:5000 connected", "PRIORITY": "6", "SYSLOG_IDENTIFIER": "dtlsd",
                    "WORKER": "3", "PEER": "192.0.2.1:5000", "HANDSHAKE_USEC": "1234",
                    "MESSAGE_ID": LogEvent.connectionOpened.messageID,
                ]
            ])
    }

    @Test func `an entry is encoded in the native protocol of the journal`() {
        let entry = LogEntry(level: .warning, message: "a\nb", metadata: ["k": "v"])
        let expected =
            Array("MESSAGE\n".utf8) + [3, 0, 0, 0, 0, 0, 0, 0]
            + Array("a\nb\nPRIORITY=4\nSYSLOG_IDENTIFIER=dtlsd\nK=v\n".utf8)
        #expect(JournalEncoding.encode(entry, role: "main") == expected)
    }

    @Test func `a value with line breaks cannot add a field`() throws {
        let evil = "x\nPRIORITY=0\n_PID=1"
        let entry = LogEntry(level: .info, message: evil, metadata: ["reason": .string(evil)])
        let fields = try FakeJournal.parse(JournalEncoding.encode(entry, role: "main"))
        #expect(
            fields == ["MESSAGE": evil, "REASON": evil, "PRIORITY": "6", "SYSLOG_IDENTIFIER": "dtlsd"])
    }

    @Test(arguments: [
        ("peer", "PEER"), ("handshake-µs", "HANDSHAKE__S"), ("_pid", "X__PID"), ("1st", "X_1ST"), ("", "X_"),
        ("message", "X_MESSAGE"), ("a=b\nc", "A_B_C"), ("ß", "X__"),
    ])
    func `metadata keys become valid field names`(key: String, field: String) {
        #expect(JournalEncoding.fieldName(key) == field)
    }

    @Test func `a field name is cut to 64 characters`() {
        #expect(JournalEncoding.fieldName(String(repeating: "_", count: 100)).utf8.count == 64)
    }

    @Test func `a long value is cut and its entry arrives`() throws {
        let journal = try FakeJournal()
        let logger = try journal.logger()
        logger.info("\(String(repeating: "é", count: 500_000))")
        let message = try #require(try journal.entries().first?["MESSAGE"])
        #expect(message.utf8.count <= JournalEncoding.maximumValueBytes)
        #expect(message.hasPrefix("éé"))
        #expect(message.hasSuffix("é…"))
    }

    @Test func `a full journal queue loses entries, and the next entry says how many`() throws {
        let journal = try FakeJournal()
        let sink = LogSink(role: "main", level: .info, destination: .journal(try JournalSocket(path: journal.path)))
        let logger = Logger(label: "test") { _ in DaemonLogHandler(sink: sink) }
        // Nobody reads: a sender that waits would hang here for good. The queue's length is the system's choice.
        let many = 100_000
        var written = 0
        while sink.lost < 3, written < many {
            logger.info("entry")
            written += 1
        }
        try #require(sink.lost == 3)
        let arrived = try journal.entries()
        #expect(arrived.count == written - 3)
        logger.info("again")
        let entry = try #require(try journal.entries().first)
        #expect(entry["LOST_ENTRIES"] == "3")
        #expect(entry["MESSAGE"] == "again (3 log entries before this one were lost)")
        #expect(sink.lost == 0)
        logger.info("later")
        #expect(try journal.entries().first?["LOST_ENTRIES"] == nil)
    }

    @Test func `a missing journal loses entries and nothing else`() throws {
        let journal = try FakeJournal()
        let sink = LogSink(role: "main", level: .info, destination: .journal(try JournalSocket(path: journal.path)))
        unlink(journal.path)
        sink.write(LogEntry(level: .info, message: "m", metadata: [:]))
        #expect(sink.lost == 1)
    }

    @Test func `standard error is recognised as the journal by device and inode`() throws {
        var ends: [Int32] = [0, 0]
        try #require(pipe(&ends) == 0)
        defer { for end in ends { close(end) } }
        var status = stat()
        try #require(fstat(ends[1], &status) == 0)
        let stream = "\(status.st_dev):\(status.st_ino)"
        #expect(JournalSocket.isStandardError(stream, descriptor: ends[1]))
        for other in [nil, "", "0:0", stream + "0", "1:" + stream, "\(status.st_dev)", "a:b"] {
            #expect(!JournalSocket.isStandardError(other, descriptor: ends[1]))
        }
    }

    @Test func `log handlers are values and share the sink's level`() throws {
        let journal = try FakeJournal()
        let sink = LogSink(role: "main", level: .notice, destination: .journal(try JournalSocket(path: journal.path)))
        var first = Logger(label: "first") { _ in DaemonLogHandler(sink: sink) }
        first[metadataKey: "only"] = "first"
        var second = first
        second.logLevel = .error
        second[metadataKey: "only"] = "second"
        #expect(first.logLevel == .notice)
        sink.level = .debug
        #expect(first.logLevel == .debug)
        #expect(second.logLevel == .error)
        first.debug("m", metadata: ["other": "o"])
        let entry = try #require(try journal.entries().first)
        #expect(entry["ONLY"] == "first")
        #expect(entry["OTHER"] == "o")
    }
}

@Suite struct LogEventTests {
    @Test func `message IDs are valid and unique`() {
        let identifiers = LogEvent.allCases.map(\.messageID)
        #expect(Set(identifiers).count == identifiers.count)
        for identifier in identifiers {
            #expect(identifier.utf8.count == 32)
            #expect(identifier.allSatisfy { "0123456789abcdef".contains($0) })
            #expect(Set(identifier).count > 4)
        }
    }

    /// Operators have them in their queries: a change to one is a mistake.
    @Test func `message IDs never change`() {
        #expect(LogEvent.ready.messageID == "1e2929ec3e84490e82e031073b4fadb3")
        #expect(LogEvent.workerDied.messageID == "0b8849ba95b04cefb70e722363bba718")
        #expect(LogEvent.connectionOpened.messageID == "cde74a02b67b470ea9b7613559d68da5")
        #expect(LogEvent.connectionClosed.messageID == "1db8a567d8224492ac040ea2b0d1006f")
        #expect(LogEvent.handshakeFailed.messageID == "59166cb1cb524572ab668855f8f933b6")
    }

    @Test func `a disabled level evaluates neither message nor metadata`() throws {
        let journal = try FakeJournal()
        let logger = try journal.logger(level: .notice)
        var evaluated = 0
        func text() -> String {
            evaluated += 1
            return "text"
        }
        logger.log(.connectionOpened, text(), ["K": .string(text())])
        #expect(evaluated == 0)
        logger.log(.handshakeFailed, text(), ["K": .string(text())])
        #expect(evaluated == 2)
    }
}
