import Primitives
import Testing

@testable import DTLSDaemon

/// Messages of syslog, and the frames that they come in.
@Suite struct SyslogMessageTests {
    private struct Parts: Equatable {
        var facility = 1
        var severity = 5
        var hasPriority = false
        var timestamp: String?
        var hostname: String?
        var identifier: String?
        var processID: String?
        var messageID: String?
        var structuredData: String?
        var text: String
    }

    private func parse(_ message: String) -> Parts { parse(Array(message.utf8)) }

    private func parse(_ message: [UInt8]) -> Parts {
        func string(_ bytes: UnsafeRawBufferPointer?) -> String? { bytes.map { String(decoding: $0, as: UTF8.self) } }
        return message.withUnsafeBytes { bytes in
            let message = SyslogMessage(bytes)
            return Parts(
                facility: Int(message.facility), severity: Int(message.severity), hasPriority: message.hasPriority,
                timestamp: string(message.timestamp), hostname: string(message.hostname),
                identifier: string(message.identifier), processID: string(message.processID),
                messageID: string(message.messageID), structuredData: string(message.structuredData),
                text: String(decoding: message.text, as: UTF8.self))
        }
    }

    /// The examples of RFC 5424, section 6.5, and what else it allows.
    @Test func `messages of RFC 5424 are taken apart`() {
        #expect(
            parse("<34>1 2003-10-11T22:14:15.003Z mymachine.example.com su - ID47 - \u{feff}'su root' failed")
                == Parts(
                    facility: 4, severity: 2, hasPriority: true, timestamp: "2003-10-11T22:14:15.003Z",
                    hostname: "mymachine.example.com", identifier: "su", messageID: "ID47", text: "'su root' failed"))
        let data =
            #"[exampleSDID@32473 iut="3" eventSource="Application" eventID="1011"][examplePriority@32473 class="high"]"#
        #expect(
            parse("<165>1 2003-10-11T22:14:15.003Z host evntslog 77 ID47 \(data)\n")
                == Parts(
                    facility: 20, severity: 5, hasPriority: true, timestamp: "2003-10-11T22:14:15.003Z",
                    hostname: "host", identifier: "evntslog", processID: "77", messageID: "ID47", structuredData: data,
                    text: ""))
        #expect(
            parse(#"<0>1 - - - - - [a b="\"]\\"] text"#)
                == Parts(
                    facility: 0, severity: 0, hasPriority: true, structuredData: #"[a b="\"]\\"]"#, text: "text"))
    }

    @Test func `messages of RFC 3164 are taken apart`() {
        #expect(
            parse("<34>Oct 11 22:14:15 mymachine su: 'su root' failed\r\n")
                == Parts(
                    facility: 4, severity: 2, hasPriority: true, timestamp: "Oct 11 22:14:15", hostname: "mymachine",
                    identifier: "su", text: "'su root' failed"))
        // As programs write to /dev/log: without a host name.
        #expect(
            parse("<13>Feb  5 17:32:18 logger[123]: hello")
                == Parts(
                    facility: 1, severity: 5, hasPriority: true, timestamp: "Feb  5 17:32:18", identifier: "logger",
                    processID: "123", text: "hello"))
        // rsyslog's RSYSLOG_FileFormat, which omdtls sends by default.
        #expect(
            parse("2026-11-23T18:22:16.123456+01:00 host cron[5]: hello: world")
                == Parts(
                    timestamp: "2026-11-23T18:22:16.123456+01:00", hostname: "host", identifier: "cron",
                    processID: "5", text: "hello: world"))
        // The second example of section 5.4: a tag without a colon is a part of the text.
        #expect(
            parse("<13>Aug 24 05:34:00 CST 1987 mymachine myproc[10]: %% It's time.")
                == Parts(
                    facility: 1, severity: 5, hasPriority: true, timestamp: "Aug 24 05:34:00", hostname: "CST",
                    text: "1987 mymachine myproc[10]: %% It's time."))
    }

    @Test(arguments: [
        "", "hello", "<13", "<>x", "<192>x", "<1234>x", "<-1>x", "<+1>x", "12 hello", "1 - - - - - -",
        "Oct 11 22:14:15",
    ])
    func `a message of neither RFC is a text`(_ message: String) {
        #expect(parse(message) == Parts(text: message))
    }

    @Test func `broken headers stay in the text`() {
        for text in [
            "1 2003-10-11T22:14:15.003Z host", "1 - - - - - [a", "1 - - - - - [a b=\"]\"", "1 - - - - - x",
            "1 \(String(repeating: "x", count: 65)) - - - - -", "1  - - - - -", "2 - - - - - - x",
        ] {
            #expect(parse("<13>" + text) == Parts(hasPriority: true, text: text))
        }
        let binary: [UInt8] = [0x3c, 0x31, 0x33, 0x3e, 0xff, 0x00, 0x01]
        #expect(
            parse(binary)
                == Parts(hasPriority: true, text: String(decoding: [0xff, 0x00, 0x01] as [UInt8], as: UTF8.self)))
    }

    private func frames(_ datagram: String) -> [String] {
        var messages: [String] = []
        Array(datagram.utf8).withUnsafeBytes { bytes in
            SyslogFrames.each(of: bytes) { messages.append(String(decoding: $0, as: UTF8.self)) }
        }
        return messages
    }

    @Test(arguments: [
        ("9 <13>hello", ["<13>hello"]),
        ("9 <13>hello9 <14>world", ["<13>hello", "<14>world"]),
        ("9 <13>hello\n9 <14>world\r\n", ["<13>hello", "<14>world"]),
        // Without frames.
        ("<13>hello", ["<13>hello"]),
        ("1 hello", ["1 hello"]), ("2026-11-23 <13>", ["2026-11-23 <13>"]), ("hello\n", ["hello\n"]), ("", []),
        // A frame that goes on in another record, and others that are not what they say.
        ("90 <13>hello", ["<13>hello"]), ("5 <13>hello", ["<13>h", "ello"]), ("09 <13>hello", ["09 <13>hello"]),
        ("0 <13>hello", ["0 <13>hello"]), ("9  <13>hello", ["9  <13>hello"]), ("9 ", ["9 "]), ("9", ["9"]),
        ("999999 <13>hello", ["999999 <13>hello"]), ("99999 <13>hello", ["<13>hello"]),
    ])
    func `frames divide a datagram into messages`(_ datagram: String, _ expected: [String]) {
        #expect(frames(datagram) == expected)
    }

    /// What follows the last that counts is one message: a datagram costs no more entries than that.
    @Test func `the frames of a datagram are bounded`() {
        let messages = frames(String(repeating: "1 <", count: 5_000))
        #expect(messages.count == SyslogFrames.maximumCount + 1)
        #expect(messages.last == String(repeating: "1 <", count: 5_000 - SyslogFrames.maximumCount))
    }

    @Test(arguments: [
        ("plain", "plain"), ("two\nlines\r\t", #"two\nlines\r\t"#), (#"a\n"#, #"a\\n"#), ("ä€😀", "ä€😀"),
        ("\u{1b}[31m\u{7f}", #"\x1b[31m\x7f"#), ("\u{202e}\u{85}", #"\u{202e}\u{85}"#), ("", ""),
    ])
    func `any text becomes one line`(_ text: String, _ expected: String) {
        #expect(printable(Array(text.utf8)) == expected)
    }

    @Test func `any bytes become one line`() {
        #expect(printable([0x61, 0xff, 0xc3, 0x28, 0xe2, 0x82, 0xf0, 0x00]) == #"a\xff\xc3(\xe2\x82\xf0\x00"#)
        // Surrogates and overlong forms are no UTF-8.
        #expect(printable([0xed, 0xa0, 0x80, 0xc0, 0xaf]) == #"\xed\xa0\x80\xc0\xaf"#)
    }

    private func printable(_ bytes: [UInt8]) -> String {
        var line: [UInt8] = []
        bytes.withUnsafeBytes { Printable.append($0, to: &line) }
        return String(decoding: line, as: UTF8.self)
    }
}
