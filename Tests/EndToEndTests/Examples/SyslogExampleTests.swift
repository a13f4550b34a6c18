import Foundation
import LinuxSystem
import TestSupport
import Testing

extension EndToEndClientMode {
    /// config/examples/syslog-client.toml and syslog.toml: util-linux' logger before the one, a stand-in for the
    /// journal behind the other.
    @Suite struct SyslogExampleTests {
        let near: TestFolder
        let far: TestFolder

        init() throws { (near, far) = (try TestFolder(), try TestFolder()) }

        @Test func `messages become entries of the journal`() async throws {
            let collector = try await CertificateMaker(folder: far).selfSigned("syslog")
            let sender = try await CertificateMaker(folder: near).selfSigned("syslog")
            try FileManager.default.copyItem(atPath: collector.certificate, toPath: near.file("syslog-collector.pem"))
            try FileManager.default.copyItem(atPath: sender.certificate, toPath: far.file("syslog-senders.pem"))
            let journal = try DatagramSocket(atPath: far.file("journal"))
            let secure = try SocketAddress.free(on: "127.0.0.1")
            let example = try ExampleConfiguration("syslog.toml", listen: [secure])
                .replacing("to = \"journal\"", with: "to = \"journal:\(far.file("journal"))\"")
            let server = try await Daemon.start(example.text, in: far)
            let address = try SocketAddress.freeOnOwnLoopback()
            let client = try await Daemon.start(
                ExampleConfiguration("syslog-client.toml", listen: [address], connect: secure).text, in: near)

            let logger = ["logger", "--udp", "--server", address.host, "--port", "\(address.port)"]
            for format in ["--rfc5424=notq", "--rfc3164"] {
                let text = "hello, \(format)"
                let words = [format, "--priority", "local3.warning", "--tag", "example", text]
                try await Program.run(logger + words, in: near)
                let entry = try await entry(with: text, from: journal, details: server.program.errors)
                for field in ["SERVICE=syslog", "CLIENT=localhost", "PRIORITY=4", "SYSLOG_FACILITY=19"] {
                    #expect(entry.contains(Substring(field)), "\(entry)")
                }
                #expect(entry.contains("SYSLOG_IDENTIFIER=example"), "\(entry)")
            }
            try await client.stop()
            try await server.stop()
        }

        private func entry(
            with text: String, from journal: DatagramSocket, details: String
        ) async throws -> [Substring] {
            var entry: [Substring] = []
            try await eventually("'\(text)' is in the journal", details: details) {
                guard entry.isEmpty, let datagram = journal.receive() else { return !entry.isEmpty }
                let lines = String(decoding: datagram.bytes, as: UTF8.self).split(separator: "\n")
                if lines.contains("MESSAGE=\(text)") { entry = lines }
                return !entry.isEmpty
            }
            return entry
        }
    }
}
