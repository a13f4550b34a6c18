import CLinux
import DTLSEngine
import DTLSKit
import Foundation
import FoundationXML
import Primitives
import Testing

@testable import dtls

@Suite struct DestinationTests {
    @Test(arguments: [
        ("localhost:5684", "localhost", 5684, "localhost"), ("127.0.0.1:1", "127.0.0.1", 1, "127.0.0.1"),
        ("[::1]:65535", "::1", 65_535, "::1"), ("example.org.:5684", "example.org.", 5684, "example.org"),
    ])
    func `a server is named by host and port`(_ text: String, _ host: String, _ port: Int, _ name: String) throws {
        let destination = try #require(Destination(argument: text))
        #expect(destination.host == host && destination.port == UInt16(port) && destination.certificateName == name)
    }

    @Test(arguments: [
        "localhost", "localhost:", "localhost:0", "localhost:+5", "localhost:65536", ":5684", "::1:5684", "a b:1",
    ])
    func `what is no host and port is refused`(_ text: String) { #expect(Destination(argument: text) == nil) }

    @Test func `a name that does not resolve is told from one without a name server`() {
        let failure = #expect(throws: TalkingFailure.self) {
            _ = try Destination(argument: "name.invalid:1")?.resolve()
        }
        #expect(failure?.status == 2)
    }
}

@Suite struct MessageCutterTests {
    @Test func `lines are messages, whatever pieces they come in`() {
        var cutter = MessageCutter(.lines)
        #expect(cutter.messages(of: Array("on".utf8)) == [])
        #expect(cutter.messages(of: Array("e\ntwo\r\n\nthr".utf8)) == [Array("one".utf8), Array("two".utf8)])
        #expect(cutter.messages(of: Array("ee".utf8)) == [])
        #expect(cutter.end() == [Array("three".utf8)])
        #expect(cutter.end() == [])
    }

    @Test func `binary input is cut by size alone`() {
        var cutter = MessageCutter(.pieces(size: 3))
        #expect(cutter.messages(of: [1, 10, 3, 4, 5, 6, 7]) == [[1, 10, 3], [4, 5, 6], [7]])
        #expect(cutter.end() == [])
    }
}

@Suite struct MessageTextTests {
    @Test func `a server's message cannot command the terminal`() {
        let message: [UInt8] = Array("a\tb\n\u{1b}]0;title\u{7}\u{202e}é".utf8) + [0xff]
        #expect(TerminalText.printable(message: message) == "a\tb\n\\u{1b}]0;title\\u{7}\\u{202e}é\u{fffd}")
        #expect(TerminalText.printable("two\nlines") == "two\\u{a}lines")
    }

    @Test func `numbers have the digits that are asked for`() {
        #expect(1.005.text(digits: 0) == "1" && 0.05.text(digits: 3) == "0.050" && (-1.25).text(digits: 1) == "-1.3")
        #expect(999.9996.text(digits: 3) == "1000.000" && (-0.0001).text(digits: 2) == "0.00")
        #expect(Double.nan.text(digits: 1) == "0")
        #expect(Duration.microseconds(340).text == "0.34 ms" && Duration.milliseconds(1_204).text == "1.204 s")
    }
}

@Suite struct ProbeResultTests {
    @Test func `the line has state, text and performance data, as Nagios reads them`() {
        let result = ProbeResult(
            state: .warning, text: "host:1 is slow",
            data: [
                .init(name: "time", value: "0.012000", unit: "s", warning: "1", critical: "2"),
                .init(name: "days", value: "80", critical: "7"), .init(name: "retransmissions", value: "0"),
            ])
        #expect(
            result.line == "DTLS WARNING - host:1 is slow | time=0.012000s;1;2 days=80;;7 retransmissions=0")
    }

    @Test func `a server's words can neither end the line nor begin the performance data`() {
        let result = ProbeResult(state: .critical, text: "it said | time=0s\nDTLS OK - fine")
        #expect(result.line == "DTLS CRITICAL - it said / time=0s\\u{a}DTLS OK - fine")
    }

    @Test func `limits are crossed and not only reached`() {
        let seconds = ProbeLimits(warning: 1, critical: 2)
        #expect([1, 1.1, 2, 2.1].map { seconds.state(above: $0) } == [.ok, .warning, .warning, .critical])
        let days = ProbeLimits(warning: 30, critical: 7)
        #expect([30, 29, 7, 6, -3].map { days.state(below: $0) } == [.ok, .warning, .warning, .critical, .critical])
        #expect(ProbeLimits().state(above: 1e9) == .ok && ProbeLimits(critical: 1).state(above: 2) == .critical)
    }

    @Test func `days for a certificate are two, the first the larger`() {
        #expect(ExpiryDays("30,7") == ExpiryDays("30,7") && ExpiryDays("30,7")?.critical == 7)
        for text in ["30", "7,30", "30,7,1", "a,b", "30,-1", ","] { #expect(ExpiryDays(text) == nil) }
    }

    @Test func `days left are whole ones, and negative after the end`() {
        let now: Int64 = 1_000_000_000
        func left(_ seconds: Int64) -> Int { CalendarDate(seconds: now + seconds).daysLeft(now: now) }
        #expect(left(86_399) == 0 && left(86_400) == 1 && left(-1) == -1 && left(-86_400) == -1 && left(-86_401) == -2)
        #expect("\(CalendarDate(seconds: 1_000_000_000))" == "2001-09-09")
    }
}

@Suite struct PresharedKeyEditorTests {
    private func text(_ editor: PresharedKeyEditor) -> String { String(decoding: editor.bytes, as: UTF8.self) }

    @Test func `comments, order and the lines of others stay as they are`() {
        var editor = PresharedKeyEditor(
            Array("# floor 1\nlamp:00112233445566778899aabbccddeeff\n\nbroken\ndoor:correct horse battery".utf8))
        let key = [UInt8](repeating: 0xab, count: 16)
        let digits = String(repeating: "ab", count: 16)
        editor.set(Array("lamp".utf8), key)
        editor.set(Array("new".utf8), key)
        let isRemoved = editor.remove(Array("door".utf8))
        #expect(isRemoved)
        let isRemovedTwice = editor.remove(Array("door".utf8))
        #expect(!isRemovedTwice && !editor.contains(Array("door".utf8)))
        #expect(text(editor) == "# floor 1\nlamp:\(digits)\n\nbroken\nnew:\(digits)\n")
    }

    @Test(arguments: [
        Array("sensor-7".utf8), Array("a:b".utf8), Array("#1".utf8), Array(" x".utf8), Array("x ".utf8), [0xff, 0x0a],
        Array("Gerät 7".utf8),
    ]) func `the daemon reads every identity that is written`(_ identity: [UInt8]) {
        var editor = PresharedKeyEditor([])
        let key = [UInt8](0..<16)
        editor.set(identity, key)
        let parsed = PresharedKeyFile.parse(editor.bytes)
        #expect(parsed.keys == [PresharedKey(identity: identity, key: key)] && parsed.problems.isEmpty)
        #expect(PresharedKeyEditor(editor.bytes).contains(identity))
    }

    @Test func `an identity that no file can hold is refused`() throws {
        #expect(try PresharedKeyEditor.identity("#6162") == Array("ab".utf8))
        for text in ["", "#xyz", "#00", String(repeating: "x", count: 256)] {
            #expect(throws: TalkingFailure.self) { try PresharedKeyEditor.identity(text) }
        }
    }

    @Test func `a file is replaced as a whole, and stays closed to others`() throws {
        let path = "/tmp/dtls-psk-test-\(getpid())"
        defer { unlink(path) }
        try Data("a:00112233445566778899aabbccddeeff\n".utf8).write(to: URL(fileURLWithPath: path))
        chmod(path, 0o644)
        try PresharedKeyEditor.edit(path, mayCreate: false) { $0.set([98], [UInt8](repeating: 1, count: 16)) }
        var status = stat()
        stat(path, &status)
        #expect(status.st_mode & 0o777 == 0o640)
        let inode = status.st_ino
        #expect(throws: TalkingFailure.self) {
            try PresharedKeyEditor.edit(path, mayCreate: false) { editor throws(TalkingFailure) in
                _ = editor.remove([98])
                throw .local("something is wrong")
            }
        }
        stat(path, &status)
        #expect(status.st_ino == inode)
        #expect(
            try String(contentsOfFile: path, encoding: .utf8).hasSuffix("b:\(String(repeating: "01", count: 16))\n"))
    }

    @Test func `a key is found by its identity, or is the first one`() throws {
        let file = Array("a:00112233445566778899aabbccddeeff\nb:ffeeddccbbaa99887766554433221100\n".utf8)
        #expect(try ClientOptions.presharedKey(in: file, "file").identity == [97])
        #expect(try ClientOptions.presharedKey(in: file, "file", identity: "b").key.first == 0xff)
        for (text, identity) in [("a:00112233445566778899aabbccddeeff", "c"), ("", nil), ("a:123", nil)]
            as [(String, String?)]
        {
            #expect(throws: TalkingFailure.self) {
                try ClientOptions.presharedKey(in: Array(text.utf8), "file", identity: identity)
            }
        }
    }
}

@Suite struct CertificateNameTests {
    @Test func `names of a certificate are hosts and addresses, and nothing that adds another name`() {
        #expect(CertCommand.alternativeName("example.org") == "DNS:example.org")
        #expect(CertCommand.alternativeName("*.example.org") == "DNS:*.example.org")
        #expect(
            CertCommand.alternativeName("::1") == "IP:::1" && CertCommand.alternativeName("127.0.0.1") == "IP:127.0.0.1"
        )
        for text in ["", "a,DNS:b", "a b", "fe80::1%lo", String(repeating: "a", count: 254)] {
            #expect(CertCommand.alternativeName(text) == nil)
        }
    }

    @Test func `a certificate that is made says what it is for`() throws {
        let authority = try IssuedCertificate(.authority, commonName: "CA", names: [], lifetime: .seconds(86_400 * 3))
        let server = try IssuedCertificate(
            .server, commonName: "host", names: ["DNS:host.example", "IP:::1"], lifetime: .seconds(86_400),
            issuer: authority)
        let details = try #require(CertificateDetails(pem: server.pem))
        #expect(details.subject == "CN=host" && details.issuer == "CN=CA" && details.key == "ECDSA P-256")
        #expect(details.names.dns == ["host.example"] && details.names.ip == ["::1"])
        let lifetime = details.notAfter.seconds - details.notBefore.seconds
        #expect(lifetime == 86_400 + 3_600)
        #expect(server.privateKeyPEM.hasPrefix("-----BEGIN PRIVATE KEY-----"))
        #expect(CertificateDetails(der: [1, 2, 3]) == nil)
    }
}

@Suite struct LatencyTests {
    @Test func `slices and the whole agree on what was recorded`() {
        var record = LatencyRecord(started: Instant(nanoseconds: 0), sliceLength: .seconds(1))
        for milliseconds in 1...100 { record.record(.milliseconds(milliseconds)) }
        record.advance(to: Instant(nanoseconds: 500_000_000))
        #expect(record.slices.isEmpty)
        record.advance(to: Instant(nanoseconds: 3_200_000_000))
        record.record(.seconds(1_000))
        record.endSlice()
        #expect(record.slices.map(\.count) == [100, 1] && record.slices.map(\.startSeconds) == [0, 3])
        #expect(record.count == 101)
        #expect(abs(record.percentile(50) - 0.051) < 0.001 && record.percentile(100) >= 100)
        #expect(record.distribution.last?.percentile == 100)
    }

    @Test func `an axis has round ends and lines in between`() {
        let scale = LogScale([0.000_13, 0.0007, 0])
        #expect(abs(scale.lowest - 1e-4) < 1e-12 && abs(scale.highest - 1e-3) < 1e-12)
        #expect(scale.marks.count == 4)
        #expect(scale.part(1e-4) == 0 && abs(scale.part(1e-3) - 1) < 1e-9 && scale.part(1) == 1)
        #expect(LogScale([]).highest > LogScale([]).lowest && LogScale([0.01]).highest > LogScale([0.01]).lowest)
        #expect([1.2e-5, 0.0015, 2, 0].map(LatencyPlot.label) == ["12 µs", "1.5 ms", "2 s", "0"])
    }

    private func result(server: String) -> BenchResult {
        BenchResult(
            scenario: .echo, server: server, address: "127.0.0.1:1", protocolVersion: "DTLSv1.2", cipher: "A&B",
            connections: 2, messageBytes: 64, window: 8, handshakesOpened: 2, handshakesFailed: 0,
            handshakesResumed: 0, connectionsBroken: 0, messagesSent: 20, messagesReceived: 19, messagesLost: 1,
            durationSeconds: 2, perSecond: 9.5, clientProcessorShare: 0.95,
            latency: .init(
                meanSeconds: 0.001, p50Seconds: 0.001, p90Seconds: 0.002, p99Seconds: 0.003, p999Seconds: 0.004,
                maxSeconds: 0.005),
            distribution: [
                .init(percentile: 0, seconds: 0.0005), .init(percentile: 50, seconds: 0.001),
                .init(percentile: 99, seconds: 0.003), .init(percentile: 100, seconds: 0.005),
            ],
            timeline: [
                .init(startSeconds: 0, count: 10, p50Seconds: 0.001, p99Seconds: 0.002, maxSeconds: 0.003),
                .init(startSeconds: 1, count: 0, p50Seconds: 0, p99Seconds: 0, maxSeconds: 0),
                .init(startSeconds: 1.5, count: 9, p50Seconds: 0.001, p99Seconds: 0.003, maxSeconds: 0.005),
            ], failures: [:])
    }

    @Test func `the drawing is a document of XML whatever the server is called, and has a line for each percentile`()
        throws
    {
        let svg = LatencyPlot(result: result(server: "<script>\"&\u{1b}")).svg
        let document = try XMLDocument(data: Data(svg.utf8))
        #expect(document.rootElement()?.name == "svg")
        #expect(!svg.contains("<script>") && svg.contains("prefers-color-scheme: dark"))
        let classes = try document.nodes(forXPath: "//*[local-name()='polyline']/@class").compactMap(\.stringValue)
        #expect(Set(classes) == ["p50", "p99", "max"])
        // The slice in which nothing happened is left out.
        let points = try document.nodes(forXPath: "//*[local-name()='polyline']/@points").compactMap(\.stringValue)
        #expect(points.count == 3 && points.allSatisfy { $0.split(separator: " ").count == 2 })
    }

    @Test func `the text warns where the load generator is the limit, and JSON holds the same figures`() throws {
        var result = result(server: "host:1")
        #expect(result.text.contains("19 of 20 messages in 2.00 s, 1 lost") && result.text.contains("may be the limit"))
        result.clientProcessorShare = 0.5
        #expect(!result.text.contains("may be the limit"))
        let decoder = JSONDecoder()
        decoder.keyDecodingStrategy = .convertFromSnakeCase
        #expect(try decoder.decode(BenchResult.self, from: Data(result.json())) == result)
    }

    @Test func `a progress bar fits its terminal`() {
        #expect(
            ProgressBar.line(0.5, "12 handshakes", columns: 80)
                == "[###############...............]  50 %  12 handshakes")
        #expect(ProgressBar.line(2, "x", columns: 20) == "[########] 100 %  x")
        #expect(ProgressBar.line(.nan, String(repeating: "x", count: 200), columns: 40).count == 39)
    }
}
