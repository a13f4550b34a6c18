import Foundation
import LinuxSystem
import TestSupport
import Testing

extension EndToEndClientMode {
    /// `dtls exporter` with the real daemon, as Prometheus and a browser see it.
    @Suite struct ExporterTests {
        let folder: TestFolder
        let identity: Identity
        /// Of a certificate that expires soon.
        let old: Identity
        let address: SocketAddress
        let forwarding: SocketAddress
        /// Where nobody listens.
        let backend: SocketAddress

        init() async throws {
            folder = try TestFolder()
            identity = try await CertificateMaker(folder: folder).selfSigned("server")
            old = try await CertificateMaker(folder: folder).selfSigned("old", days: 5)
            address = try SocketAddress.freeOnOwnLoopback()
            forwarding = try SocketAddress.freeOnOwnLoopback()
            backend = try SocketAddress.freeOnOwnLoopback()
        }

        private func startDaemon() async throws -> Daemon {
            try await Daemon.start(
                "workers = 1\n[control]\npath = \"\(folder.file("control"))\"\n"
                    + Service(listen: [address], identity: identity).text
                    + Service.forwarding(to: "udp:\(backend)", listen: forwarding, identity: old).text,
                in: folder)
        }

        /// Starts the exporter on a port that the kernel chooses.
        /// - Returns: the address of its page, without the last slash.
        private func startExporter() async throws -> (program: Program, address: String) {
            let program = try Tool.start(
                ["exporter", "--listen", "127.0.0.1:0", "--socket", folder.file("control")], in: folder)
            let address = try await eventualValue("the exporter listens", details: program.errors) {
                program.errors.firstMatch(of: /(http:\/\/127\.0\.0\.1:\d+)\//).map { String($0.1) }
            }
            return (program, address)
        }

        private func metrics(_ address: String, openMetrics: Bool = false) throws -> String {
            let port = try #require(address.split(separator: ":").last.flatMap { UInt16($0) })
            let accept = openMetrics ? "Accept: application/openmetrics-text\r\n" : ""
            return try HTTPConnection.get("/metrics", port: port, accept).body
        }

        private static func repositoryFile(_ path: String) throws -> String {
            let root = URL(filePath: #filePath).deletingLastPathComponent().appending(path: "../..")
            return try String(contentsOf: root.appending(path: path), encoding: .utf8)
        }

        // MARK: Prometheus

        @Test func `all that is documented is exported, and dashboard and alerts name only what is`() async throws {
            let daemon = try await startDaemon()
            let exporter = try await startExporter()
            let client = try SecureClient(to: address, trust: identity.certificate, in: folder)
            try await client.exchange("hello")
            let text = try metrics(exporter.address)
            let exported = Set(text.matches(of: /(?m)^(dtlsd_\w+)/).map { String($0.1) })
            // A histogram is documented by the name of its family.
            let families = Set(text.matches(of: /(?m)^# TYPE (dtlsd_\w+)/).map { String($0.1) })

            // Lines of tables that begin with names are those of counters, but for tables of a label's values.
            let documented = try Self.repositoryFile("docs/counters.md").split(separator: "\n")
                .filter { $0.hasPrefix("| `") }
                .flatMap { $0.split(separator: "|")[0].matches(of: /`(\w+)`/).map { "dtlsd_\($0.1)" } }
                .filter {
                    $0.hasSuffix("_total") || $0.hasSuffix("_seconds") || $0.hasSuffix("_fds") || $0.hasSuffix("_bytes")
                }
            #expect(documented.count > 40)
            for name in documented { #expect(families.contains(name), "\(name)") }
            for file in ["deploy/grafana/dtlsd.json", "deploy/prometheus/dtlsd.rules.yml", "docs/monitoring.md"] {
                let named = Set(try Self.repositoryFile(file).matches(of: /dtlsd_\w*[a-z]/).map { String($0.0) })
                #expect(named.count > 8, "\(file)")
                let unknown = named.subtracting(exported).subtracting(["dtlsd_worker"])
                #expect(unknown.isEmpty, "\(file)")
            }
            // A worker says what it has done at the end of a turn of its loop.
            for line in [
                "dtlsd_handshakes_total{service=\"echo\",result=\"full\"} 1",
                "dtlsd_connections{service=\"echo\",state=\"open\"} 1",
                "dtlsd_backend_state{service=\"forward\",backend=\"udp:\(backend)\",state=\"down\"} 0",
            ] {
                try await eventually("there is '\(line)'", within: 10, details: text) {
                    try metrics(exporter.address).contains("\n\(line)\n")
                }
            }

            daemon.program.signal(SIGKILL)
            _ = try await daemon.program.ended()
            #expect(try metrics(exporter.address).hasSuffix("\ndtlsd_up 0\n"))
            exporter.program.signal(SIGTERM)
            #expect(try await exporter.program.ended() == .exited(0))
        }

        private static let promtool = "/usr/bin/promtool"
        private static var hasPromtool: Bool { FileManager.default.isExecutableFile(atPath: promtool) }

        @Test(.enabled(if: hasPromtool, "promtool is missing: apt-get install prometheus"))
        func `promtool accepts both formats, and the alerts with their tests`() async throws {
            let daemon = try await startDaemon()
            let exporter = try await startExporter()
            let check = try Program([Self.promtool, "check", "metrics"], in: folder)
            check.send(try metrics(exporter.address))
            check.closeInput()
            #expect(try await check.ended() == .exited(0))
            #expect(check.output + check.errors == "")
            // Prometheus' parser of OpenMetrics, which wants a time of each sample here.
            let stamped = try metrics(exporter.address, openMetrics: true).split(separator: "\n")
                .map { $0.hasPrefix("#") ? "\($0)\n" : "\($0) 1795856400\n" }.joined()
            try folder.write(stamped, to: "metrics")
            try await Program.run(
                [
                    Self.promtool, "tsdb", "create-blocks-from", "openmetrics", folder.file("metrics"),
                    folder.file("blocks"),
                ],
                in: folder)
            let rules = URL(filePath: #filePath).deletingLastPathComponent()
                .appending(path: "../../deploy/prometheus/dtlsd.rules").standardized.path
            try await Program.run([Self.promtool, "check", "rules", rules + ".yml"], in: folder)
            try await Program.run([Self.promtool, "test", "rules", rules + ".test.yml"], in: folder)
            exporter.program.signal(SIGTERM)
            _ = try await exporter.program.ended()
            try await daemon.stop()
        }

        private static let prometheus = "/usr/bin/prometheus"
        private static var hasPrometheus: Bool { FileManager.default.isExecutableFile(atPath: prometheus) }

        /// The parts of Grafana's model of a dashboard that say what is asked of Prometheus.
        private struct Dashboard: Decodable {
            struct Target: Decodable { var expr: String }
            struct Panel: Decodable {
                var title: String
                var targets: [Target]?
            }
            var panels: [Panel]
        }

        private struct QueryAnswer: Decodable {
            struct Series: Decodable { var metric: [String: String] }
            struct Result: Decodable { var result: [Series] }
            var status: String
            var error: String?
            var data: Result?
        }

        @Test(.enabled(if: hasPrometheus, "a server is missing: apt-get install prometheus"))
        func `a Prometheus that scrapes the exporter has an answer for every panel of the dashboard`() async throws {
            let daemon = try await startDaemon()
            let exporter = try await startExporter()
            let client = try SecureClient(to: address, trust: identity.certificate, in: folder)
            try await client.exchange("hello")
            let port = try SocketAddress.free(on: "127.0.0.1").port
            try folder.write(
                """
                global: {scrape_interval: 1s, scrape_timeout: 1s}
                scrape_configs:
                  - job_name: dtlsd
                    static_configs: [{targets: ["\(exporter.address.dropFirst(7))"]}]

                """, to: "prometheus.yml")
            let prometheus = try Program(
                [
                    Self.prometheus, "--config.file=\(folder.file("prometheus.yml"))",
                    "--storage.tsdb.path=\(folder.file("tsdb"))", "--web.listen-address=127.0.0.1:\(port)",
                    "--log.level=warn",
                ], in: folder)
            let dashboard = try JSONDecoder().decode(
                Dashboard.self, from: Data(try Self.repositoryFile("deploy/grafana/dtlsd.json").utf8))
            let panels = dashboard.panels.flatMap { panel in (panel.targets ?? []).map { (panel.title, $0.expr) } }
            #expect(panels.count > 30)
            for (title, expression) in panels {
                // What happens too seldom for this test would not be above zero.
                var query = expression.replacing(/\ > 0$/, with: "")
                for variable in ["instance", "service"] { query.replace("$\(variable)", with: ".*") }
                query.replace("$__rate_interval", with: "30s")
                let encoded = try #require(query.addingPercentEncoding(withAllowedCharacters: .alphanumerics))
                try await eventually(
                    "Prometheus has an answer for '\(title)', \(query)", within: 20, details: prometheus.errors
                ) {
                    guard
                        let body = try? HTTPConnection.get("/api/v1/query?query=\(encoded)", port: port).body,
                        let answer = try? JSONDecoder().decode(QueryAnswer.self, from: Data(body.utf8))
                    else { return false }
                    #expect(answer.status == "success", "\(title): \(answer.error ?? "")")
                    return answer.data?.result.isEmpty == false
                }
            }
            prometheus.signal(SIGTERM)
            _ = try await prometheus.ended()
            exporter.program.signal(SIGTERM)
            _ = try await exporter.program.ended()
            try await daemon.stop()
        }

        // MARK: The page in a browser

        private static let browser = "/usr/bin/chromium"
        private static var hasBrowser: Bool { FileManager.default.isExecutableFile(atPath: browser) }

        /// What is on the page after some seconds of the page's own time, which passes as fast as its requests are answered.
        /// There is a picture of it in .build/screenshots.
        private func page(_ address: String, as name: String, _ arguments: String...) async throws -> String {
            let pictures = URL(filePath: #filePath).deletingLastPathComponent()
                .appending(path: "../../.build/screenshots").standardized
            try FileManager.default.createDirectory(at: pictures, withIntermediateDirectories: true)
            let picture = pictures.appending(path: "\(name).png")
            try? FileManager.default.removeItem(at: picture)
            let program = try Program(
                [
                    "env", "HOME=\(folder.path)", Self.browser, "--headless", "--no-sandbox", "--disable-gpu",
                    "--disable-dev-shm-usage", "--hide-scrollbars", "--user-data-dir=\(folder.file("profile"))",
                    "--virtual-time-budget=7000", "--screenshot=\(picture.path)", "--dump-dom",
                ] + arguments + [address + "/"], in: folder)
            program.closeInput()
            #expect(try await program.ended(within: 120) == .exited(0))
            let bytes = try Data(contentsOf: picture)
            #expect(bytes.prefix(4) == Data([0x89, 0x50, 0x4e, 0x47]) && bytes.count > 10_000)
            return program.output
        }

        /// The number on a tile.
        private func tile(_ name: String, in page: String) throws -> Double {
            let parts = page.components(separatedBy: "<dt>\(name)</dt><dd")
            let text = try #require(parts.last?.firstMatch(of: />([\d.,]+)</), "\(page)")
            return try #require(Double(text.1.replacing(",", with: "")))
        }

        @Test(.enabled(if: hasBrowser, "a browser is missing: apt-get install chromium"))
        func `a browser shows an idle, a busy and a broken daemon, and one that is gone`() async throws {
            let daemon = try await startDaemon()
            let exporter = try await startExporter()

            let idle = try await page(exporter.address, as: "idle", "--window-size=1200,1500")
            for part in [
                "data-state=\"ready\"", "aria-live=\"polite\"", ">echo</th>", ">serving</td>", "Nothing was refused",
                "udp:\(backend)", "OU=server", "Handshakes a second: succeeded 0, failed 0",
            ] { #expect(idle.contains(part), "\(part): \(idle)") }
            #expect(try tile("Connections", in: idle) == 0)
            #expect(idle.contains("id=\"away\" class=\"problem\" hidden"))
            // The certificate that expires in four days is said so where everybody looks.
            #expect(idle.contains("The certificate of forward expires in 4 days."))

            let clients = try [address, address, forwarding].map {
                try SecureClient(to: $0, trust: $0 == address ? identity.certificate : old.certificate, in: folder)
            }
            for client in clients.dropLast() { try await client.exchange("hello") }
            let talk = Task {
                while !Task.isCancelled {
                    for client in clients { client.say("lines go back and forth") }
                    try await Task.sleep(for: .milliseconds(20))
                }
            }
            defer { talk.cancel() }
            try await eventually("the backend is out", details: daemon.program.errors) {
                daemon.program.errors.contains("does not take datagrams")
            }
            let busy = try await page(
                exporter.address, as: "busy", "--window-size=500,2600", "--blink-settings=preferredColorScheme=0")
            #expect(try tile("Connections", in: busy) == 3)
            #expect(try tile("Messages in/s", in: busy) > 1)
            #expect(busy.firstMatch(of: /Messages a second: received [1-9]/) != nil)
            #expect(
                busy.firstMatch(of: /polyline class="line" points="[\d.]+,[\d.]+ [\d.]+,/) != nil,
                "a line of two points")
            #expect(busy.contains(">down</td>"))
            #expect(busy.contains("The backend udp:\(backend) of forward is out."))

            talk.cancel()
            daemon.program.signal(SIGKILL)
            _ = try await daemon.program.ended()
            let gone = try await page(exporter.address, as: "gone", "--window-size=1000,700")
            #expect(gone.contains("data-state=\"away\""))
            #expect(!gone.contains("aria-labelledby=\"plots-title\" hidden"), "the plots show what was before")
            #expect(gone.firstMatch(of: /dtlsd has not answered since \d\d:\d\d:\d\d/) != nil, "\(gone)")
            #expect(gone.firstMatch(of: /Its last answer came at \d\d:\d\d:\d\d/) != nil)
            exporter.program.signal(SIGTERM)
            #expect(try await exporter.program.ended() == .exited(0))
        }
    }
}
