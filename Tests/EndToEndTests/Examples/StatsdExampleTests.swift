import Foundation
import LinuxSystem
import TestSupport
import Testing

extension EndToEndClientMode {
    /// config/examples/statsd.toml with collectd's StatsD server, and with openssl as the sender.
    @Suite struct StatsdExampleTests {
        let folder: TestFolder

        init() throws { folder = try TestFolder() }

        @Test func `metrics arrive through the pair`() async throws {
            let maker = CertificateMaker(folder: folder)
            let identity = try await maker.selfSigned("statsd")
            let sender = try await maker.selfSigned("statsd-senders")
            let backend = try SocketAddress.freeOnOwnLoopback()
            let file = try folder.write(configuration(backend), to: "collectd.conf")
            let collectd = try await ForeignProgram.serve(
                ["collectd", "-f", "-C", file], on: backend, in: folder)
            let address = try SocketAddress.freeOnOwnLoopback()
            let daemon = try await Daemon.start(
                ExampleConfiguration("statsd.toml", listen: [address], backend: backend).text, in: folder)

            let client = try SecureClient(
                to: address, trust: identity.certificate, in: folder,
                ["-cert", sender.certificate, "-key", sender.privateKey])
            client.say("level:42|g")
            try await eventually("collectd has the figure", details: collectd.output + collectd.errors) {
                figures("gauge-level").contains(",42.0")
            }
            try await client.leave()

            let stranger = try SecureClient(to: address, trust: identity.certificate, in: folder)
            _ = try await stranger.program.ended()
            try await daemon.logged("handshake failed", "SERVICE=statsd")
            try await daemon.stop()
        }

        /// The file's name ends with the date.
        private func figures(_ name: String) -> String {
            let path = folder.file("csv/test/statsd")
            let files = (try? FileManager.default.contentsOfDirectory(atPath: path)) ?? []
            return files.filter { $0.hasPrefix(name) }.map { folder.read("csv/test/statsd/\($0)") }.joined()
        }

        private func configuration(_ address: SocketAddress) -> String {
            """
            BaseDir "\(folder.path)"
            PIDFile "\(folder.file("collectd.pid"))"
            PluginDir "/usr/lib/collectd"
            TypesDB "/usr/share/collectd/types.db"
            Hostname "test"
            FQDNLookup false
            Interval 1
            LoadPlugin logfile
            <Plugin logfile>
              LogLevel info
              File stdout
            </Plugin>
            LoadPlugin statsd
            <Plugin statsd>
              Host "\(address.host)"
              Port "\(address.port)"
            </Plugin>
            LoadPlugin csv
            <Plugin csv>
              DataDir "\(folder.file("csv"))"
            </Plugin>

            """
        }
    }
}
