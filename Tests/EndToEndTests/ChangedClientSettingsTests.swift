import LinuxSystem
import TestSupport
import Testing

extension EndToEndCrowds {
    /// SIGHUP with changed settings of clients, in front of servers of OpenSSL.
    @Suite struct ChangedClientSettingsTests {
        let folder: TestFolder
        let maker: CertificateMaker
        let identity: Identity

        init() async throws {
            folder = try TestFolder()
            maker = CertificateMaker(folder: folder)
            identity = try await maker.selfSigned("server")
        }

        /// A setting without which there is no connection, and with which there is one.
        private struct Change {
            /// The client's, which is there for this setting alone.
            var name: String
            var before = "ca = \"server.pem\""
            var after: String
            /// s_server's options.
            var server: [String] = []
            var hasCertificate = true
            /// What the log says while there is none, and of the one that there is.
            var refused: String
            var opened = "VERSION=DTLSv1.2"
        }

        private static let key = "00112233445566778899aabbccddeeff"

        private static let changes = [
            Change(
                name: "server_name", before: "ca = \"server.pem\"\nserver_name = \"other.example\"",
                after: "ca = \"server.pem\"\nserver_name = \"localhost\"", refused: "for \"other.example\""),
            Change(
                name: "ca", before: "ca = \"other.pem\"\nserver_name = \"localhost\"",
                after: "ca = \"server.pem\"\nserver_name = \"localhost\"", refused: "self-signed certificate"),
            Change(
                name: "verify", before: "ca = \"other.pem\"", after: "verify = false",
                refused: "self-signed certificate"),
            Change(
                name: "ciphers", before: "verify = false\nciphers = \"ECDHE+AES128\"",
                after: "verify = false\nciphers = \"ECDHE+AES256\"",
                server: ["-cipher", "ECDHE-ECDSA-AES256-GCM-SHA384"], refused: "handshake failure",
                opened: "CIPHER=ECDHE-ECDSA-AES256-GCM-SHA384"),
            Change(
                name: "minimum_version", before: "verify = false", after: "verify = false\nminimum_version = \"1.0\"",
                server: ["-max_protocol", "DTLSv1", "-cipher", "ALL:@SECLEVEL=0"], refused: "handshake failure",
                opened: "VERSION=DTLSv1 "),
            Change(
                name: "maximum_version",
                before: "verify = false\nminimum_version = \"1.0\"\nmaximum_version = \"1.0\"",
                after: "verify = false\nminimum_version = \"1.0\"\nmaximum_version = \"1.2\"",
                server: ["-min_protocol", "DTLSv1.2", "-cipher", "ALL:@SECLEVEL=0"], refused: "protocol version",
                opened: "VERSION=DTLSv1.2"),
            Change(
                name: "alpn", before: "verify = false\nalpn = \"other\"",
                after: "verify = false\nalpn = [\"two\", \"coap\"]", server: ["-alpn", "coap"],
                refused: "no application protocol", opened: "ALPN=coap"),
            Change(
                name: "psk", before: "verify = false", after: "psk.file = \"keys.psk\"\npsk.identity = \"sensor-7\"",
                server: ["-psk", key, "-psk_identity", "sensor-7", "-nocert"], hasCertificate: false,
                refused: "handshake failure", opened: "CIPHER=ECDHE-PSK"),
            Change(
                name: "certificate", before: "verify = false",
                after: "verify = false\ncertificate = \"person.pem\"\nprivate_key = \"sealed.key\"\n"
                    + "passphrase_file = \"passphrase\"",
                server: ["-Verify", "1", "-verify_return_error", "-CAfile", "server.pem"],
                refused: "handshake failure"),
        ]

        /// An alert is believed after 3 seconds: it could have been forged.
        @Test func `new handshakes use the new settings`() async throws {
            _ = try await maker.selfSigned("other")
            try await maker.encryptKey(
                of: maker.issued("person", by: identity), as: "sealed.key", passphrase: "sesame")
            try folder.write("sesame\n", to: "passphrase")
            try folder.write("sensor-6:\(String(Self.key.reversed()))\nsensor-7:\(Self.key)\n", to: "keys.psk")
            let fronts = try Self.changes.map { _ in try SocketAddress.freeOnOwnLoopback() }
            let backs = try Self.changes.map { _ in try SocketAddress.freeOnOwnLoopback() }
            // One that has refused a client ends.
            func startServers() async throws -> [SecureServer] {
                var servers: [SecureServer] = []
                for (change, back) in zip(Self.changes, backs) {
                    let options = change.server.map { $0 == "server.pem" ? identity.certificate : $0 }
                    let own = change.hasCertificate ? identity : nil
                    servers.append(try await SecureServer(at: back, as: own, in: folder, options))
                }
                return servers
            }
            func configuration(_ setting: (Change) -> String) -> String {
                Self.changes.indices.map { index in
                    let change = Self.changes[index]
                    return Client(
                        name: change.name, listen: fronts[index], connect: backs[index], more: setting(change)
                    ).text
                }.joined()
            }
            /// Lets a new sender of each client say who it is.
            func send() throws -> [PlainSender] {
                try zip(Self.changes, fronts).map { change, front in
                    let sender = try PlainSender(to: front)
                    sender.send("to \(change.name)\n")
                    return sender
                }
            }
            var servers = try await startServers()
            let daemon = try await Daemon.start("workers = 1\n" + configuration(\.before), in: folder)
            var senders = try send()
            for change in Self.changes {
                try await daemon.logged("the next try is in", "SERVICE=\(change.name) ", change.refused)
            }
            #expect(!daemon.logs("connection to the server opened"))
            try daemon.reload("workers = 1\n" + configuration(\.after))
            try await daemon.logged("reloaded")
            servers = []
            servers = try await startServers()
            senders += try send()
            for (change, server) in zip(Self.changes, servers) {
                try await server.hears("to \(change.name)\n")
                try await daemon.logged("connection to the server opened", "SERVICE=\(change.name) ", change.opened)
            }
            try await daemon.stop()
        }

        /// How long a server may take, and nothing be said.
        @Test func `new timeouts hold for new connections`() async throws {
            let fronts = try (0..<2).map { _ in try SocketAddress.freeOnOwnLoopback() }
            let back = try SocketAddress.freeOnOwnLoopback()
            let mute = try DatagramSocket.onOwnLoopback()
            func configuration(_ settings: [String]) -> String {
                "workers = 1\n"
                    + Client(
                        name: "unheard", listen: fronts[0], connect: mute.local, more: "verify = false\n\(settings[0])"
                    ).text
                    + Client(name: "idle", listen: fronts[1], connect: back, more: "verify = false\n\(settings[1])")
                    .text
            }
            let server = try await SecureServer(at: back, as: identity, in: folder)
            let daemon = try await Daemon.start(configuration(["", ""]), in: folder)
            try daemon.reload(configuration(["handshake_timeout = 2", "idle_timeout = 2"]))
            try await daemon.logged("reloaded")
            let senders = try fronts.map { try PlainSender(to: $0) }
            for sender in senders { sender.send("hello\n") }
            try await server.hears("hello\n")
            try await daemon.logged("connection to the server closed: idle", "SERVICE=idle")
            try await daemon.logged("the handshake took too long", "SERVICE=unheard")
            try await daemon.stop()
        }
    }
}
