import Foundation
import LinuxSystem
import TestSupport
import Testing

extension EndToEndCrowds {
    /// SIGHUP with changed settings of services: new handshakes go by them, and who is connected stays so.
    @Suite struct ChangedSettingsTests {
        let folder: TestFolder
        let maker: CertificateMaker
        let identity: Identity

        init() async throws {
            folder = try TestFolder()
            maker = CertificateMaker(folder: folder)
            identity = try await maker.selfSigned("server")
        }

        /// A setting that a reload brings, and a client that is treated otherwise from then on.
        private struct Change {
            /// The service's, which is there for this setting alone.
            var name: String
            var before = ""
            var after: String
            /// s_client's options.
            var client: [String]
            var version = "-dtls1_2"
            var first: Outcome
            var then: Outcome
        }

        private enum Outcome {
            /// And this is in the log of the opened connection.
            case served(String = "VERSION=")
            /// And this is among s_client's errors.
            case refused(String)
        }

        private static let key = "00112233445566778899aabbccddeeff"
        private static let oldSuite = ["-cipher", "ECDHE-ECDSA-AES128-SHA:@SECLEVEL=0"]

        private static let changes = [
            Change(
                name: "unknown_name", after: "unknown_name = \"refuse\"", client: ["-servername", "nobody.example"],
                first: .served("SNI=nobody.example"), then: .refused("unrecognized name")),
            Change(
                name: "alpn", before: "alpn = [\"other\"]", after: "alpn = [\"coap\", \"two\"]",
                client: ["-alpn", "two,coap"], first: .refused("no application protocol"), then: .served("ALPN=coap")),
            Change(
                name: "ciphers", after: "ciphers = \"ECDHE+AES256\"",
                client: ["-cipher", "ECDHE-ECDSA-AES128-GCM-SHA256"],
                first: .served("CIPHER=ECDHE-ECDSA-AES128-GCM-SHA256"), then: .refused("handshake failure")),
            Change(
                name: "groups", before: "groups = \"P-384\"", after: "groups = \"P-256:X25519\"",
                client: ["-groups", "X25519:P-256"], first: .refused("handshake failure"), then: .served()),
            Change(
                name: "signature_algorithms", before: "signature_algorithms = \"ECDSA+SHA256\"",
                after: "signature_algorithms = \"ECDSA+SHA512\"", client: ["-sigalgs", "ECDSA+SHA256"],
                first: .served(), then: .refused("handshake failure")),
            Change(
                name: "client_purpose", before: "ca = \"authority.pem\"",
                after: "ca = \"authority.pem\"\nclient_purpose = \"any\"",
                client: ["-cert", "for-servers.pem", "-key", "for-servers.key"],
                first: .refused("unsupported certificate"), then: .served("CLIENT=for-servers")),
            Change(
                name: "minimum_version", after: "minimum_version = \"1.0\"", client: oldSuite, version: "-dtls1",
                first: .refused("protocol version"), then: .served("VERSION=DTLSv1 ")),
            Change(
                name: "maximum_version", before: "minimum_version = \"1.0\"",
                after: "minimum_version = \"1.0\"\nmaximum_version = \"1.0\"", client: [],
                first: .served("VERSION=DTLSv1.2"), then: .refused("unsupported protocol")),
            Change(
                name: "only_the_oldest", after: "minimum_version = \"1.0\"\nmaximum_version = \"1.0\"",
                client: oldSuite, version: "-dtls1",
                first: .refused("protocol version"), then: .served("VERSION=DTLSv1 ")),
            Change(
                name: "psk", after: "psk.file = \"keys.psk\"",
                client: ["-psk_identity", "sensor-7", "-psk", key, "-cipher", "PSK"],
                first: .refused("handshake failure"), then: .served("CLIENT=sensor-7")),
            Change(
                name: "client_certificate", before: "ca = \"server.pem\"",
                after: "ca = \"server.pem\"\nclient_certificate = \"requested\"", client: [],
                first: .refused("handshake failure"), then: .served()),
        ]

        @Test func `new handshakes use the new settings`() async throws {
            try folder.write("sensor-7:\(Self.key)\n", to: "keys.psk")
            _ = try await maker.issued(
                "for-servers", by: maker.authority("authority"), extensions: ["extendedKeyUsage = serverAuth"])
            let places = try Self.changes.map { _ in try SocketAddress.freeOnOwnLoopback() }
            func configuration(_ setting: (Change) -> String) -> String {
                zip(Self.changes, places).map { change, place in
                    Service(name: change.name, listen: [place], identity: identity, more: setting(change)).text
                }.joined()
            }
            func clients() throws -> [SecureClient] {
                try zip(Self.changes, places).map { change, place in
                    let client = try SecureClient(
                        to: place, trust: identity.certificate, in: folder,
                        change.client.map { $0.hasPrefix("for-servers.") ? folder.file($0) : $0 },
                        version: change.version)
                    client.say("hello")
                    return client
                }
            }
            let daemon = try await Daemon.start("workers = 1\n" + configuration(\.before), in: folder)
            let residents = try clients()
            for (change, client) in zip(Self.changes, residents) {
                try await expect(change.first, of: client, change.name, daemon)
            }
            try daemon.reload("workers = 1\n" + configuration(\.after))
            try await daemon.logged("reloaded")
            for (change, client) in zip(Self.changes, try clients()) {
                try await expect(change.then, of: client, change.name, daemon)
            }
            for (change, client) in zip(Self.changes, residents) {
                if case .served = change.first { try await client.exchange("still here") }
            }
            try await daemon.stop()
        }

        private func expect(
            _ outcome: Outcome, of client: SecureClient, _ service: String, _ daemon: Daemon
        ) async throws {
            switch outcome {
            case .served(let part):
                try await client.hears("hello")
                try await daemon.logged("connection opened", "SERVICE=\(service) ", part)
            case .refused(let alert):
                #expect(try await client.program.ended() != .exited(0), "\(service)")
                #expect(client.program.errors.contains(alert), "\(service): \(client.transcript)")
                #expect(client.output.isEmpty)
            }
        }

        /// s_client tells the hint with -debug.
        @Test func `a new hint for pre-shared keys reaches clients`() async throws {
            let place = try SocketAddress.freeOnOwnLoopback()
            try folder.write("sensor-7:\(Self.key)\n", to: "keys.psk")
            func service(_ hint: String) -> String {
                "[service.echo]\nlisten = \"\(place)\"\nhandler = \"echo\"\npsk.file = \"keys.psk\"\n\(hint)\n"
            }
            func client() throws -> SecureClient {
                try SecureClient(
                    to: place, trust: identity.certificate, in: folder,
                    ["-psk_identity", "sensor-7", "-psk", Self.key, "-debug"])
            }
            let daemon = try await Daemon.start(service(""), in: folder)
            try await client().hears("NULL received PSK identity hint, continuing anyway")
            try daemon.reload(service("psk.hint = \"gateway\""))
            try await daemon.logged("reloaded")
            try await client().hears("Received PSK identity hint 'gateway'")
            try await daemon.stop()
        }

        /// The certificate for the address which a client has come to.
        @Test func `the choice of a certificate by address can be switched on`() async throws {
            let place = try SocketAddress.freeOnOwnLoopback()
            let here = try await maker.selfSigned("here", names: ["DNS:here.example", "IP:\(place.host)"])
            func configuration(_ more: String) -> String {
                let service = Service(listen: [place], identity: identity, more: more)
                return service.text + service.name("here.example", here)
            }
            func client() throws -> SecureClient {
                try SecureClient(to: place, trust: here.certificate, in: folder, ["-noservername"])
            }
            let daemon = try await Daemon.start(configuration(""), in: folder)
            #expect(try await client().program.ended() != .exited(0))
            try daemon.reload(configuration("by_address = true"))
            try await daemon.logged("reloaded")
            try await client().exchange("by address")
            try await daemon.stop()
        }

        /// A line "R" makes s_client ask for it. A connection from before goes by what it began with.
        @Test func `renegotiation can be switched on`() async throws {
            let place = try SocketAddress.freeOnOwnLoopback()
            func configuration(_ more: String) -> String {
                Service(listen: [place], identity: identity, more: more).text
            }
            func client() throws -> SecureClient {
                try SecureClient(to: place, trust: identity.certificate, in: folder)
            }
            let daemon = try await Daemon.start(configuration(""), in: folder)
            let old = try client()
            try await old.exchange("before")
            try daemon.reload(configuration("renegotiation = true"))
            try await daemon.logged("reloaded")
            old.say("R")
            #expect(try await old.program.ended() != .exited(0))
            #expect(old.program.errors.contains("no renegotiation"), "\(old.transcript)")
            let new = try client()
            try await new.exchange("before")
            new.say("R")
            // What is sent during the handshake may be lost, as on the wire.
            try await eventually("the echo comes back", details: new.transcript) {
                new.say("after")
                return new.hasHeard("after")
            }
            try await new.leave()
            #expect(new.handshakesDone == 2)
            try await daemon.stop()
        }

        /// How long a client may take, and be silent, how long its ticket is good, and how large a handshake's packets
        /// are.
        @Test func `new timeouts and sizes hold for new connections`() async throws {
            let place = try SocketAddress.freeOnOwnLoopback()
            func configuration(_ more: String, lifetime: Int) -> String {
                "[tickets]\nlifetime = \(lifetime)\n" + Service(listen: [place], identity: identity, more: more).text
            }
            /// Does a handshake, and says how large the server's datagrams were.
            func flight() async throws -> Int {
                let relay = try Relay(to: place) { _, _ in true }
                try await SecureClient(to: relay.address, trust: identity.certificate, in: folder).exchange("hello")
                return relay.passed.filter { $0.direction == .toClient }.map(\.bytes.count).max() ?? 0
            }
            func ticketLifetime() async throws -> Substring? {
                let words = ["openssl", "s_client", "-dtls1_2", "-connect", "\(place)"]
                return try await Program.run(words, in: folder).firstMatch(of: /lifetime hint: (\d+)/)?.1
            }
            let daemon = try await Daemon.start(configuration("", lifetime: 200), in: folder)
            let old = try SecureClient(to: place, trust: identity.certificate, in: folder)
            try await old.exchange("before")
            #expect(try await ticketLifetime() == "200")
            #expect(try await flight() > 228)

            try daemon.reload(configuration("handshake_timeout = 2\nidle_timeout = 1\nmtu = 256", lifetime: 100))
            try await daemon.logged("reloaded")
            let hanging = try DatagramSocket.onOwnLoopback()
            let hello = ClientHelloBytes()
            guard case .helloVerifyRequest(let cookie) = try await hanging.ask(hello.bytes(), of: place) else {
                Issue.record("no HelloVerifyRequest")
                return
            }
            #expect(try await hanging.ask(hello.bytes(cookie: cookie, number: 1), of: place) == .serverHello)
            let silent = try SecureClient(to: place, trust: identity.certificate, in: folder)
            try await silent.exchange("and then silence")
            #expect(try await ticketLifetime() == "100")
            // 256 bytes with the headers of IPv4 (20) and UDP (8).
            #expect(try await flight() <= 228)
            #expect(try await silent.program.ended() == .exited(0))
            #expect(silent.gotCloseNotify)
            try await daemon.logged("connection closed: idle")
            try await daemon.logged("handshake failed", "PEER=\(hanging.local)")
            try await old.exchange("still here")
            try await daemon.stop()
        }

        /// A renewed key whose passphrase is another: with the old one it is refused, with the new one it is served.
        @Test func `a renewed key comes with its passphrase`() async throws {
            let place = try SocketAddress.freeOnOwnLoopback()
            let sealed = try await maker.encryptKey(of: identity, as: "sealed.key", passphrase: "first")
            try folder.write("first\n", to: "passphrase")
            let text = Service(listen: [place], identity: sealed, more: "passphrase_file = \"passphrase\"").text
            let daemon = try await Daemon.start(text, in: folder)
            let old = try SecureClient(to: place, trust: identity.certificate, in: folder)
            try await old.exchange("before")

            let renewed = try await maker.selfSigned("renewed")
            try await maker.encryptKey(of: renewed, as: "sealed.key", passphrase: "second")
            try folder.write(folder.read("renewed.pem"), to: "server.pem")
            daemon.program.signal(SIGHUP)
            try await daemon.logged(" error ", "dtlsd.toml:", "service.echo.passphrase_file: \"passphrase\": ")
            try await daemon.logged("reload failed")
            try folder.write("second\n", to: "passphrase")
            daemon.program.signal(SIGHUP)
            try await daemon.logged("reloaded")
            try await SecureClient(to: place, trust: renewed.certificate, in: folder).exchange("renewed")
            try await old.exchange("still here")
            try await daemon.stop()
        }

        /// A client that has a cookie goes on after a reload, until the file has another secret.
        @Test func `a new cookie secret invalidates old cookies`() async throws {
            let place = try SocketAddress.freeOnOwnLoopback()
            let text = "cookie_secret_file = \"secret\"\n" + Service(listen: [place], identity: identity).text
            try folder.write(String(repeating: "a", count: 32), to: "secret")
            let daemon = try await Daemon.start(text, in: folder)
            let socket = try DatagramSocket.onOwnLoopback()
            let hello = ClientHelloBytes()
            guard case .helloVerifyRequest(let cookie) = try await socket.ask(hello.bytes(), of: place) else {
                Issue.record("no HelloVerifyRequest")
                return
            }
            try folder.write(String(repeating: "b", count: 32), to: "secret")
            daemon.program.signal(SIGHUP)
            try await daemon.logged("reloaded")
            let answer = try await socket.ask(hello.bytes(cookie: cookie, number: 1), of: place)
            guard case .helloVerifyRequest = answer else {
                Issue.record("a cookie of the old secret is answered with \(answer)")
                return
            }
            try folder.write(String(repeating: "a", count: 32), to: "secret")
            daemon.program.signal(SIGHUP)
            try await daemon.logged("reloaded", count: 2)
            #expect(try await socket.ask(hello.bytes(cookie: cookie, number: 1), of: place) == .serverHello)
            try await daemon.stop()
        }
    }
}
