import CLinux
import Foundation
import Glibc
import LinuxSystem
import Logging
import Testing

@testable import DTLSDaemon

@Suite struct LogTextTests {
    private func line(_ message: String, _ metadata: Logger.Metadata = [:]) -> String {
        let entry = LogEntry(level: .notice, message: message, metadata: metadata)
        return String(decoding: TextEncoding.encode(entry, role: "worker 3"), as: UTF8.self)
    }

    @Test func `a line has time, level, role, message and fields`() throws {
        let text = line("handshake failed", ["PEER": "192.0.2.1:5000", "REASON": "no shared cipher", "EMPTY": ""])
        let pattern =
            #/
            ^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}[+-]\d\d:\d\d\ notice\ worker\ 3:\ handshake\ failed
            \ EMPTY=""\ PEER=192\.0\.2\.1:5000\ REASON="no\ shared\ cipher"\n$
            /#
        #expect(text.wholeMatch(of: pattern) != nil, "\(text)")
    }

    @Test func `a line has the time that is passed in`() throws {
        let entry = LogEntry(level: .info, message: "m", metadata: [:])
        let time = timespec(tv_sec: 1_700_000_000, tv_nsec: 7_999_999)
        let bytes = TextEncoding.encode(entry, role: "main", at: time)
        let text = String(decoding: bytes, as: UTF8.self)
        let formatter = DateFormatter()
        formatter.locale = Locale(identifier: "en_US_POSIX")
        formatter.dateFormat = "yyyy-MM-dd'T'HH:mm:ss"
        let expected = formatter.string(from: Date(timeIntervalSince1970: 1_700_000_000)) + ".007"
        #expect(text.hasPrefix(expected), "\(text)")
    }

    @Test func `the message ID is left out of lines`() {
        #expect(!line("m", ["MESSAGE_ID": "abc"]).contains("abc"))
    }

    @Test(arguments: [
        ("a\nb", #"a\nb"#), ("a\r\nb", #"a\r\nb"#), ("\u{1b}[2J", #"\u{1b}[2J"#), ("a\u{85}b", #"a\u{85}b"#),
        ("a\u{2028}b", #"a\u{2028}b"#), ("a\u{202e}b", #"a\u{202e}b"#), (#"a\nb"#, #"a\\nb"#), ("\0", #"\u{0}"#),
        ("Grüße", "Grüße"),
    ])
    func `control characters are escaped so that a peer cannot forge a line`(text: String, escaped: String) {
        let message = line(text)
        #expect(message.hasSuffix("worker 3: \(escaped)\n"))
        #expect(message.utf8.count { $0 == UInt8(ascii: "\n") } == 1)
        let value = line("m", ["K": .string(text)])
        #expect(value.contains(escaped == text ? "K=\(escaped)\n" : "K=\"\(escaped)\"\n"))
        #expect(value.utf8.count { $0 == UInt8(ascii: "\n") } == 1)
    }

    @Test func `a value is quoted when it could look like another field`() {
        #expect(line("m", ["K": "a PEER=b"]).hasSuffix("K=\"a PEER=b\"\n"))
        #expect(line("m", ["K": #"" PEER="b"#]).hasSuffix(#"K="\" PEER=\"b""# + "\n"))
        #expect(line("m", ["K": "a=b"]).hasSuffix("K=\"a=b\"\n"))
    }

    @Test func `a line is cut to what a pipe takes atomically`() {
        let bytes = TextEncoding.encode(
            LogEntry(level: .info, message: String(repeating: "é", count: 9_000), metadata: [:]), role: "main")
        #expect(bytes.count <= TextEncoding.maximumLineBytes)
        #expect(String(validating: bytes, as: UTF8.self)?.hasSuffix("é…\n") == true)
    }
}

@Suite struct LogJSONTests {
    private func object(_ message: String, _ metadata: Logger.Metadata = [:]) throws -> [String: String] {
        let entry = LogEntry(level: .notice, message: message, metadata: metadata)
        let bytes = JSONEncoding.encode(entry, role: "worker 3")
        #expect(bytes.count <= TextEncoding.maximumLineBytes)
        #expect(bytes.count { $0 < 0x20 } == 1 && bytes.last == UInt8(ascii: "\n"))
        return try #require(JSONSerialization.jsonObject(with: Data(bytes)) as? [String: String])
    }

    @Test func `an entry is an object with time, level, process, message and fields in small letters`() throws {
        var object = try object("handshake failed", ["PEER": "192.0.2.1:5000", "MESSAGE_ID": "abc", "MESSAGE": "x"])
        let time = object.removeValue(forKey: "time") ?? ""
        #expect(time.wholeMatch(of: #/\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}[+-]\d\d:\d\d/#) != nil, "\(time)")
        #expect(
            object == [
                "level": "notice", "process": "worker 3", "message": "handshake failed", "peer": "192.0.2.1:5000",
                "message_id": "abc", "x_message": "x",
            ])
    }

    @Test(arguments: ["a\nb\r\t\"\\", "\u{1b}[2J", "a\u{85}\u{2028}\u{202e}b", "\0", "Grüße 🦆", "\u{e0041}\u{7f}"])
    func `any text comes back as it was, and nothing invisible is in the line`(text: String) throws {
        let object = try object(text, ["K": .string(text)])
        #expect(object["message"] == text && object["k"] == text)
        let line = String(
            decoding: JSONEncoding.encode(LogEntry(level: .info, message: text, metadata: [:]), role: "main"),
            as: UTF8.self)
        #expect(!line.dropLast().unicodeScalars.contains { $0.value < 0x20 || $0.value == 0x202e || $0.value == 0x85 })
    }

    @Test func `a line with too much in it is cut, and still an object`() throws {
        var metadata: Logger.Metadata = ["LONG": .string(String(repeating: "é", count: 9_000))]
        for number in 0..<100 { metadata["FIELD_\(number)"] = .string(String(repeating: "\u{1}", count: 50)) }
        let object = try object(String(repeating: "\u{1}", count: 9_000), metadata)
        #expect(object["message"]?.hasSuffix("…") == true)
    }

    @Test func `a sink writes JSON from when the configuration asks for it`() throws {
        var ends: [Int32] = [0, 0]
        try #require(pipe(&ends) == 0)
        defer { for end in ends { close(end) } }
        let writer = LineWriter(descriptor: ends[1])
        let sink = LogSink(role: "main", level: .info, destination: .standardError(writer))
        for format in [LogEntryFormat.text, .json, .json, .text] {
            sink.setDestination(format == .json ? .standardOutput(writer) : .standardError(writer), of: format)
            sink.write(LogEntry(level: .info, message: "entry", metadata: [:]))
        }
        var buffer = [UInt8](repeating: 0, count: 4_096)
        let count = Glibc.read(ends[0], &buffer, buffer.count)
        let lines = String(decoding: buffer[..<max(0, count)], as: UTF8.self).split(separator: "\n")
        #expect(lines.map { $0.hasPrefix("{") } == [false, true, true, false])
    }
}

@Suite struct StandardErrorTests {
    private func read(_ descriptor: Int32) -> String {
        var buffer = [UInt8](repeating: 0, count: 1 << 20)
        let count = Glibc.read(descriptor, &buffer, buffer.count)
        return String(decoding: buffer[..<max(0, count)], as: UTF8.self)
    }

    private func fill(_ sink: LogSink) -> Int {
        let limit = 100_000
        var written = 0
        while sink.lost < 2, written < limit {
            sink.write(LogEntry(level: .info, message: "entry", metadata: [:]))
            written += 1
        }
        return written - Int(sink.lost)
    }

    @Test func `a full pipe loses lines, and the next line says how many`() throws {
        var ends: [Int32] = [0, 0]
        try #require(pipe(&ends) == 0)
        defer { for end in ends { close(end) } }
        let writer = LineWriter(descriptor: ends[1])
        #expect(fcntl(ends[1], F_GETFL) & O_NONBLOCK == 0)
        let sink = LogSink(role: "main", level: .info, destination: .standardError(writer))
        let complete = fill(sink)
        #expect(sink.lost == 2)
        let lines = read(ends[0]).split(separator: "\n")
        #expect(lines.count == complete)
        #expect(lines.allSatisfy { $0.hasSuffix(" info main: entry") })
        sink.write(LogEntry(level: .info, message: "again", metadata: [:]))
        #expect(read(ends[0]).contains("again (2 log entries before this one were lost) LOST_ENTRIES=2\n"))
        #expect(sink.lost == 0)
    }

    @Test func `a full socket loses lines`() throws {
        var ends: [Int32] = [0, 0]
        try #require(socketpair(AF_UNIX, Int32(SOCK_DGRAM.rawValue), 0, &ends) == 0)
        defer { for end in ends { close(end) } }
        let writer = LineWriter(descriptor: ends[1])
        let sink = LogSink(role: "main", level: .info, destination: .standardError(writer))
        #expect(fill(sink) > 0)
        #expect(sink.lost == 2)
        #expect(read(ends[0]).hasSuffix(" info main: entry\n"))
    }

    @Test func `a regular file is written at its descriptor's position`() throws {
        let path = FileManager.default.temporaryDirectory.appending(path: "dtlsd-\(UUID().uuidString)").path
        let descriptor = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0o600)
        try #require(descriptor >= 0)
        defer {
            close(descriptor)
            unlink(path)
        }
        try #require(write(descriptor, "before\n", 7) == 7)
        let writer = LineWriter(descriptor: descriptor)
        #expect(writer.write(Array("line\n".utf8)))
        try #require(lseek(descriptor, 0, SEEK_SET) == 0)
        #expect(read(descriptor) == "before\nline\n")
    }

    @Test func `a closed pipe loses lines and does not end the process`() async {
        await #expect(processExitsWith: .exitCode(7)) {
            var ends: [Int32] = [0, 0]
            guard pipe(&ends) == 0, dup2(ends[1], STDERR_FILENO) >= 0 else { exit(1) }
            close(ends[0])
            close(ends[1])
            LogBootstrap.start(role: "main", level: .info)
            Logger(label: "test").error("nobody reads this")
            exit(7)
        }
    }

    @Test func `the bootstrap logs to standard error and changes levels`() async {
        await #expect(processExitsWith: .exitCode(7)) {
            var ends: [Int32] = [0, 0]
            guard pipe(&ends) == 0, dup2(ends[1], STDERR_FILENO) >= 0 else { exit(1) }
            LogBootstrap.start(role: "main", level: .notice)
            let logger = Logger(label: "test")
            logger.info("one")
            LogBootstrap.setLevel(.info)
            logger.info("two")
            var buffer = [UInt8](repeating: 0, count: 10_000)
            let count = Glibc.read(ends[0], &buffer, buffer.count)
            let text = String(decoding: buffer[..<max(0, count)], as: UTF8.self)
            exit(text.hasSuffix(" info main: two\n") && !text.contains("one") ? 7 : 1)
        }
    }
}
