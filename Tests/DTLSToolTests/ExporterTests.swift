import ControlProtocol
import Foundation
import LinuxSystem
import Primitives
import TestSupport
import Testing

@testable import dtls

/// What Prometheus is told, without sockets.
@Suite struct MetricsTests {
    private static let descriptions = [
        "handshakes_total": CounterDescription(
            kind: .counter, help: "Handshakes that have ended, by result.", label: "result"),
        "refusals_total": CounterDescription(kind: .counter, help: "Refused \"clients\" \\.", label: "reason"),
        "datagrams_dropped_total": CounterDescription(kind: .counter, help: "Dropped.", label: "reason"),
        "messages_received_total": CounterDescription(kind: .counter, help: "Messages."),
        "messages_sent_total": CounterDescription(kind: .counter, help: "Messages."),
        "message_received_bytes_total": CounterDescription(kind: .counter, help: "Bytes.", unit: "bytes"),
        "message_sent_bytes_total": CounterDescription(kind: .counter, help: "Bytes.", unit: "bytes"),
        "loop_turn_duration_seconds": CounterDescription(kind: .histogram, help: "Turns.", unit: "seconds"),
    ]

    static func counters(service: String = "coap") -> CountersResult {
        let sums = Samples.counters(full: 10, resumed: 3, denied: 4, messages: 7, receivedBytes: 70, sentBytes: 70)
        return CountersResult(
            sinceAt: "2026-11-28T09:00:00Z", services: [service: sums], clients: [:],
            listeners: [
                ListenerCounters(
                    address: "[::]:5684", service: service, client: nil,
                    counters: ["listener_queue_drops_total": .number(2)])
            ],
            workers: [WorkerCounters(number: 0, counters: Samples.worker(0, turns: [90, 10, 1], sums).counters)],
            main: ["open_fds": .number(12)], descriptions: descriptions)
    }

    static func answer(service: String = "coap") -> DaemonAnswer {
        DaemonAnswer(status: Samples.status(), counters: counters(service: service), duration: .milliseconds(3))
    }

    private func lines(_ format: MetricsDocument.Format, service: String = "coap") -> [String] {
        MetricsDocument(Self.answer(service: service)).text(format).components(separatedBy: "\n")
    }

    @Test func `OpenMetrics names a counter's family without its suffix, with its unit, and ends with EOF`() {
        let lines = lines(.openMetrics)
        for line in [
            "# TYPE dtlsd_message_received_bytes counter", "# UNIT dtlsd_message_received_bytes bytes",
            #"dtlsd_message_received_bytes_total{service="coap"} 70"#, "# TYPE dtlsd_handshakes counter",
            #"dtlsd_handshakes_total{service="coap",result="full"} 10"#, #"dtlsd_up 1"#,
            #"# HELP dtlsd_refusals Refused \"clients\" \\."#,
            #"dtlsd_open_fds{process="main"} 12"#,
            #"dtlsd_listener_queue_drops_total{address="[::]:5684",service="coap"} 2"#,
        ] { #expect(lines.contains(line), "\(line)") }
        #expect(lines.suffix(2) == ["# EOF", ""])
        #expect(lines.filter { $0.hasPrefix("# TYPE") }.count == Set(lines.filter { $0.hasPrefix("# TYPE") }).count)
    }

    @Test func `the text format of Prometheus keeps the suffix, and has no units and no end`() {
        let lines = lines(.prometheusText)
        #expect(lines.contains("# TYPE dtlsd_message_received_bytes_total counter"))
        #expect(lines.contains(#"# HELP dtlsd_refusals_total Refused "clients" \\."#))
        #expect(!lines.contains { $0.hasPrefix("# UNIT") || $0 == "# EOF" })
    }

    @Test func `a histogram's buckets add up to its count, and its last one has no bound`() {
        let histogram = lines(.openMetrics).filter { $0.hasPrefix("dtlsd_loop_turn_duration_seconds") }
        #expect(
            histogram == [
                #"dtlsd_loop_turn_duration_seconds_bucket{process="worker 0",le="0.0001"} 90"#,
                #"dtlsd_loop_turn_duration_seconds_bucket{process="worker 0",le="0.001"} 100"#,
                #"dtlsd_loop_turn_duration_seconds_bucket{process="worker 0",le="+Inf"} 101"#,
                #"dtlsd_loop_turn_duration_seconds_sum{process="worker 0"} 1.0"#,
                #"dtlsd_loop_turn_duration_seconds_count{process="worker 0"} 101"#,
            ])
    }

    @Test func `what a worker has counted for its services is in no sum over the services`() {
        let lines = lines(.openMetrics)
        #expect(lines.filter { $0.hasPrefix("dtlsd_messages_received_total") }.count == 1)
        #expect(lines.contains(#"dtlsd_worker_messages_received_total{worker="0"} 7"#))
        #expect(lines.contains(#"dtlsd_worker_handshakes_total{worker="0",result="full"} 10"#))
        // Tables of reasons are not repeated for each worker.
        #expect(!lines.contains { $0.hasPrefix("dtlsd_worker_refusals_total") })
    }

    @Test func `a name with quotation marks and line feeds is one label`() {
        #expect(
            lines(.openMetrics, service: "a\"b\\c\nd").contains(
                #"dtlsd_messages_sent_total{service="a\"b\\c\nd"} 7"#))
    }

    @Test
    func `certificates, backends and workers are there, and two certificates for one name are the first to expire`() {
        var answer = Self.answer()
        answer.status.certificates = [("2027-01-02T00:00:00Z", 35), ("2026-12-10T00:00:00Z", 11)].map {
            CertificateStatus(
                service: "coap", client: nil, name: nil, subject: "CN=coap.example.org", notAfterAt: $0.0,
                daysLeft: $0.1)
        }
        let lines = MetricsDocument(answer).text(.openMetrics).components(separatedBy: "\n")
        let expiry = lines.filter { $0.hasPrefix("dtlsd_certificate_expiry_timestamp_seconds") }
        // date -d 2026-12-10T00:00:00Z +%s
        #expect(expiry == [#"dtlsd_certificate_expiry_timestamp_seconds{service="coap",name=""} 1796860800.0"#])
        #expect(lines.contains(#"dtlsd_backend_state{service="coap",backend="udp:127.0.0.1:5683",state="down"} 1"#))
        #expect(lines.contains(#"dtlsd_backend_state{service="coap",backend="udp:127.0.0.1:5683",state="up"} 0"#))
        #expect(lines.contains(#"dtlsd_worker_serving{worker="0"} 1"#))
        #expect(lines.contains(#"dtlsd_worker_start_time_seconds{worker="0"} 1795856401.0"#))
    }

    @Test func `a daemon that does not answer is one metric`() {
        #expect(
            MetricsDocument(nil).text(.openMetrics)
                == """
                # TYPE dtlsd_up gauge
                # HELP dtlsd_up Whether dtlsd has answered over its control socket when the exporter was asked.
                dtlsd_up 0
                # EOF

                """)
    }

    @Test func `a daemon of a later version cannot break the document`() {
        var answer = Self.answer()
        answer.counters.main = [
            "new gauge\n# EOF": .number(1), "new_gauge": .number(1), "new_total": .labelled(["a": 2]),
        ]
        let text = MetricsDocument(answer).text(.openMetrics)
        #expect(text.components(separatedBy: "# EOF").count == 2)
        #expect(text.contains("# TYPE dtlsd_new_gauge gauge\n"))
        #expect(text.contains("dtlsd_new_total{process=\"main\",label=\"a\"} 2\n"))
    }

    @Test(.enabled(if: Promtool.isThere, "promtool is missing: apt-get install prometheus"))
    func `promtool finds nothing to object to`() async throws {
        let folder = try TestFolder()
        let outcome = try await Promtool.check(MetricsDocument(Self.answer()).text(.prometheusText), in: folder)
        #expect(outcome.errors + outcome.output == "")
        #expect(outcome.status == .exited(0))
    }

    @Test func `times of the protocol are read as they were written, and others are not`() {
        for seconds: Int64 in [0, 951_782_399, 951_782_400, 1_709_164_800, 4_102_444_799, -1, -62_167_219_200] {
            #expect(Timestamp.time(Timestamp.text(UnixTime(seconds: seconds)))?.seconds == seconds)
        }
        for text in [
            "", "2026-02-31T00:00:00Z", "2026-13-01T00:00:00Z", "2026-11-28 09:00:00Z", "2026-11-28T09:00:0xZ",
        ] {
            #expect(Timestamp.time(text) == nil, "\(text)")
        }
    }
}

/// Prometheus' own checker.
enum Promtool {
    static var isThere: Bool { FileManager.default.isExecutableFile(atPath: "/usr/bin/promtool") }

    static func check(_ metrics: String, in folder: TestFolder) async throws -> (
        status: Program.Ending, output: String, errors: String
    ) {
        let program = try Program(["/usr/bin/promtool", "check", "metrics"], in: folder)
        program.send(metrics)
        program.closeInput()
        let status = try await program.ended(within: 60)
        return (status, program.output, program.errors)
    }
}

/// The exporter as a process, with a control socket that answers as each test says.
@Suite struct ExporterTests {
    private let folder: TestFolder

    init() throws { folder = try TestFolder() }

    private static let full: FakeDaemon.Answering = { command in
        switch command {
        case .counters: .result(MetricsTests.counters())
        case .status: .result(Samples.status())
        default: .end
        }
    }

    private func start(_ socket: String) async throws -> RunningExporter {
        try await RunningExporter.start(socket: socket, in: folder)
    }

    @Test func `metrics are in the format that is asked for`() async throws {
        let daemon = try FakeDaemon(in: folder, Self.full)
        defer { daemon.stop() }
        let exporter = try await start(daemon.path)
        let plain = try exporter.get("/metrics")
        #expect(plain.status == 200)
        #expect(plain.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8")
        #expect(plain.body.contains("\ndtlsd_up 1\n"))
        let open = try exporter.get(
            "/metrics",
            "Accept: application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75\r\n")
        #expect(open.headers["content-type"] == "application/openmetrics-text; version=1.0.0; charset=utf-8")
        #expect(open.body.hasSuffix("# EOF\n"))
        try await exporter.stop()
    }

    @Test func `other methods, other paths and bodies are refused, and HEAD has the headers alone`() async throws {
        let begun = ContinuousClock.now
        let daemon = try FakeDaemon(in: folder, Self.full)
        defer { daemon.stop() }
        let exporter = try await start(daemon.path)
        let post = try exporter.ask("POST /metrics HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000000\r\n\r\nabc")
        #expect(post.status == 405)
        #expect(post.headers["allow"] == "GET, HEAD")
        #expect(try exporter.get("/metrics/../etc/passwd").status == 404)
        #expect(
            try exporter.ask("GET /metrics HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000000\r\n\r\nabc").status == 413)
        let head = try exporter.ask("HEAD / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        #expect(head.status == 200)
        #expect(head.body == "")
        #expect(head.headers["content-length"] == "\(ExporterPage.html.utf8.count)")
        // A header that is too large, and what is no HTTP: an error, or the end of the connection.
        for request in [
            "GET / HTTP/1.1\r\nA: \(String(repeating: "a", count: 100_000))\r\n\r\n", "\u{16}\u{3}\u{1}\r\n\r\n",
        ] {
            if let answer = try? exporter.ask(request) { #expect((400..<500).contains(answer.status)) }
        }
        #expect(try exporter.get("/page.css").status == 200)
        #expect(daemon.commands.count <= 2 * ownQuestions(since: begun), "nobody has asked for what the daemon knows")
        try await exporter.stop()
    }

    @Test func `the page takes nothing from elsewhere, and its policy allows nothing else`() async throws {
        let exporter = try await start(folder.file("none.sock"))
        let page = try exporter.get("/")
        #expect(page.headers["content-type"] == "text/html; charset=utf-8")
        #expect(page.headers["content-security-policy"]?.hasPrefix("default-src 'none';") == true)
        #expect(page.headers["x-content-type-options"] == "nosniff")
        for path in ["page.js", "page.css", "icon.svg"] {
            #expect(page.body.contains("\"\(path)\""))
            #expect(try exporter.get("/\(path)").status == 200)
        }
        for text in [page.body, try exporter.get("/page.js").body, try exporter.get("/page.css").body] {
            // The only address of another host is the name of the vocabulary of SVG.
            #expect(
                !text.replacing("http://www.w3.org/2000/svg", with: "").contains("//") || text.contains("\n// Asks"))
            #expect(!text.contains(" style=") && !text.contains(" onclick=") && !text.contains("innerHTML"))
        }
        try await exporter.stop()
    }

    @Test func `a daemon that ends and comes back is seen to`() async throws {
        let first = try FakeDaemon(in: folder, Self.full)
        let exporter = try await start(first.path)
        #expect(try exporter.get("/metrics").body.contains("\ndtlsd_up 1\n"))
        first.stop()
        #expect(try exporter.get("/metrics").body.hasSuffix("\ndtlsd_up 0\n"))
        let away = try exporter.get("/status.json").body
        for part in [#""up":false"#, #""away_since_at":"20"#, #""last_answer_at":"20"#, "has ended"] {
            #expect(away.contains(part), "\(away)")
        }
        let second = try FakeDaemon(in: folder, Self.full)
        defer { second.stop() }
        #expect(try exporter.get("/metrics").body.contains("\ndtlsd_up 1\n"))
        let back = try exporter.get("/status.json").body
        #expect(back.contains(#""up":true"#) && back.contains(#""traces":[]"#))
        try await exporter.stop()
    }

    @Test func `a daemon that hangs is away in time, and holds up no other request`() async throws {
        let daemon = try FakeDaemon(in: folder) { _ in .silence }
        defer { daemon.stop() }
        let exporter = try await start(daemon.path)
        let metrics = try exporter.connect()
        metrics.send("GET /metrics HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        let asked = ContinuousClock.now
        #expect(try exporter.get("/page.css").status == 200)
        #expect(ContinuousClock.now - asked < .seconds(3))
        #expect(try metrics.answer().body.hasSuffix("\ndtlsd_up 0\n"))
        try await exporter.stop()
    }

    /// How often the exporter has asked for its history since then, at most.
    private func ownQuestions(since begun: ContinuousClock.Instant) -> Int {
        2 + Int((ContinuousClock.now - begun) / RecentSamples.interval)
    }

    @Test func `many who ask at once are told one answer, and who only holds a connection keeps nobody out`()
        async throws
    {
        let begun = ContinuousClock.now
        let daemon = try FakeDaemon(in: folder, Self.full)
        defer { daemon.stop() }
        let exporter = try await start(daemon.path)
        let silent = try (0..<100).map { _ in try exporter.connect() }
        for client in silent { client.send("GET /metr") }
        #expect(try exporter.get("/metrics").status == 200)
        let asking = try (0..<20).map { _ in try exporter.connect() }
        for client in asking { client.send("GET /metrics HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n") }
        for client in asking { #expect(try client.answer().body.contains("\ndtlsd_up 1\n")) }
        // One answer is told for half a second, which is less than all this takes on a busy machine.
        let questions = 2 + Int((ContinuousClock.now - begun) / .milliseconds(500)) + ownQuestions(since: begun)
        #expect(daemon.commands.count <= 2 * questions, "two commands for a question")
        withExtendedLifetime(silent) {}
        try await exporter.stop()
    }

    @Test func `an address that is taken is said so`() async throws {
        let exporter = try await start(folder.file("none.sock"))
        let result = try await ToolRun.run(
            "exporter", "--listen", "127.0.0.1:\(exporter.port)", socket: folder.file("none.sock"), in: folder)
        #expect(result.status == 1)
        #expect(result.errors.contains("Nobody can be served at 127.0.0.1:\(exporter.port): Address already in use."))
        try await exporter.stop()
    }
}

/// `dtls exporter` on a port that the kernel has chosen.
struct RunningExporter {
    let program: Program
    let port: UInt16

    static func start(socket: String, in folder: TestFolder) async throws -> RunningExporter {
        let program = try Program(
            [ToolRun.binary, "exporter", "--listen", "127.0.0.1:0", "--socket", socket], in: folder)
        let port = try await eventualValue("the exporter listens", details: program.errors) {
            program.errors.firstMatch(of: /http:\/\/127\.0\.0\.1:(\d+)\//).flatMap { UInt16($0.1) }
        }
        return RunningExporter(program: program, port: port)
    }

    func stop() async throws {
        program.signal(SIGTERM)
        #expect(try await program.ended(within: 60) == .exited(0))
    }

    func connect() throws -> HTTPConnection { try HTTPConnection(port: port) }

    func ask(_ request: String) throws -> HTTPConnection.Answer {
        let connection = try connect()
        connection.send(request)
        return try connection.answer()
    }

    func get(_ path: String, _ headers: String = "") throws -> HTTPConnection.Answer {
        try HTTPConnection.get(path, port: port, headers)
    }
}

/// The last minutes that the exporter keeps, without a clock.
@Suite struct RecentSamplesTests {
    private let start = Instant(nanoseconds: 1_000_000_000)

    private func state(_ services: [TargetStatus]) -> DaemonState {
        var answer = MetricsTests.answer()
        answer.status.services = services
        return .answering(answer, at: .now())
    }

    @Test func `a sample adds up what all services have counted, and holds nothing else of them`() throws {
        var recent = RecentSamples()
        recent.note(
            state([
                Samples.service("a", Samples.counters(full: 10, denied: 1, messages: 7)),
                Samples.service("b", Samples.counters(full: 5, resumed: 2, messages: 1)),
            ]), at: start)
        let sample = try #require(recent.samples.first)
        let counters = try #require(sample.status?.services.first?.counters)
        #expect(sample.status?.services.count == 1)
        #expect(counters["messages_received_total"] == .number(8))
        #expect(
            counters["handshakes_total"]
                == .labelled(["full": 15, "resumed": 2, "timed_out": 0, "abandoned": 14]))
        let text = String(decoding: ExporterPage.history(recent).body, as: UTF8.self)
        #expect(text.hasPrefix("[{") && text.contains("\"clock_seconds\":1"))
        for name in ["coap", "udp:", "CN="] { #expect(!text.contains(name), "\(name)") }
    }

    @Test func `there is a sample each interval, ten minutes of them, and a gap where the daemon was away`() {
        var recent = RecentSamples()
        let state = state([])
        for second in 0..<1_000 { recent.note(state, at: start + .seconds(Int64(second))) }
        #expect(recent.samples.count == RecentSamples.limit)
        #expect(recent.samples.first?.clockSeconds == 401.0)
        #expect(recent.samples.last?.clockSeconds == 996.0)
        recent.note(state.losing("away", at: .now()), at: start + .seconds(1_000))
        #expect(recent.samples.last.map { !$0.isUp && $0.status == nil } == true)
        #expect(recent.samples.count == RecentSamples.limit)
    }
}
