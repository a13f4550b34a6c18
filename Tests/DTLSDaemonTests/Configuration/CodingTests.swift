import DTLSEngine
import DTLSTransport
import LinuxSystem
import Testing

@testable import DTLSDaemon

@Suite struct ConfigurationCodingTests {
    /// Every optional value is there in one service and absent from another; every handler is there.
    private func configuration() throws -> Configuration {
        let addresses = try ["0.0.0.0:4433", "[fe80::1%1]:4434"].map { try #require(SocketAddress($0)) }
        func service(_ name: String, _ handler: HandlerConfiguration) -> ServiceConfiguration {
            ServiceConfiguration(
                name: name, listen: [], tls: ServerSettings(certificate: "c", privateKey: "k"),
                handshakeTimeout: 2_000, idleTimeout: 0, mtu: 256, handler: handler, socket: SocketOptions())
        }
        var configuration = Configuration(
            workers: 7, stopTimeout: 1, logLevel: .warning, cookieSecret: Array(0...255),
            services: [
                service("plain", .echo),
                try ServiceConfiguration(
                    name: "clients", listen: [],
                    tls: ServerSettings(
                        certifiedKeys: [],
                        clients: PeerVerification(
                            mode: .requested, authorities: nil, revocationLists: ["one", ""],
                            allow: [PeerRule("sha256:" + String(repeating: "0a", count: 32))],
                            deny: [PeerRule("cn:ä"), PeerRule("IP:192.0.2.0/24")])),
                    handshakeTimeout: 2_000, idleTimeout: 0, mtu: 256, handler: .echo, socket: SocketOptions()),
                service(
                    "unix",
                    .forward(
                        ForwardConfiguration(
                            backends: [.unix("/run/ä.sock"), try .udp("[::1]:1")], proxyProtocol: true))),
                service(
                    "exec", .exec(ExecConfiguration(command: ["/bin/ä", ""], programsPerWorker: 3, limits: .init()))),
                service(
                    "bounded",
                    .exec(
                        ExecConfiguration(
                            command: ["/a"], programsPerWorker: 1,
                            limits: .init(memory: 1, processorTime: 2, openFiles: 3)))),
                service("journal", .log(.standard)),
                service("file", .log(LogConfiguration(target: .file("/f"), format: .syslog))),
                service("syslog", .log(LogConfiguration(target: .syslog(socket: "/s"), format: .plain))),
                ServiceConfiguration(
                    name: "full", listen: addresses,
                    tls: ServerSettings(
                        certificate: "certificate\n", privateKey: "key", passphrase: "p", certificateAuthorities: "ca",
                        ciphers: "ALL", minimumVersion: .dtls10, maximumVersion: .dtls12),
                    handshakeTimeout: 120_000, idleTimeout: 86_400_000, mtu: 9_000,
                    handler: .forward(ForwardConfiguration(backends: [try .udp("\(addresses[1])")])),
                    socket: SocketOptions(
                        receiveBuffer: 1_024, sendBuffer: 16_777_216, timeToLive: 0, interface: "lo", ipv6Only: false,
                        fragmentation: true)),
            ])
        configuration.tickets = TicketConfiguration(
            keys: [try #require(TicketKey(Array(0..<80)))], rotation: 1, lifetime: 2)
        configuration.keyLogFile = "/run/keys.log"
        configuration.services[1].tls.sessions = SessionSettings(resumption: false, lifetime: 3)
        configuration.services[0].tls.presharedKeys = PresharedKeys(keys: [])
        configuration.services[1].tls.presharedKeys = PresharedKeys(
            keys: [PresharedKey(identity: [0xff, 1], key: [0, 1, 2]), PresharedKey(identity: [2], key: [3])],
            hint: [0xfe])
        return configuration
    }

    private let problems = ConfigurationProblems(problems: [
        ConfigurationProblem(file: "f", line: 3, key: "a.b", message: "ä"),
        ConfigurationProblem(file: "", line: nil, key: nil, message: ""),
    ])

    @Test func `what is written is read`() throws {
        let configuration = try configuration()
        #expect(try configuration.encode().withUnsafeBytes { try Configuration(decoding: $0) } == configuration)
        var bare = configuration
        bare.cookieSecret = nil
        bare.services = []
        #expect(try bare.encode().withUnsafeBytes { try Configuration(decoding: $0) } == bare)
        #expect(try problems.encode().withUnsafeBytes { try ConfigurationProblems(decoding: $0) } == problems)
    }

    @Test func `every truncation and every extra byte is refused`() throws {
        let bytes = try configuration().encode()
        for count in bytes.indices {
            #expect(throws: MalformedBytes.self) {
                try bytes[..<count].withUnsafeBytes { _ = try Configuration(decoding: $0) }
            }
        }
        #expect(throws: MalformedBytes.self) {
            try (bytes + [0]).withUnsafeBytes { _ = try Configuration(decoding: $0) }
        }
        let problemBytes = problems.encode()
        for count in problemBytes.indices {
            #expect(throws: MalformedBytes.self) {
                try problemBytes[..<count].withUnsafeBytes { _ = try ConfigurationProblems(decoding: $0) }
            }
        }
    }

    /// A changed byte makes another configuration or an error, and what can be read can be written the same again.
    @Test func `any changed byte is harmless`() throws {
        let bytes = try configuration().encode()
        var refused = 0
        for position in bytes.indices {
            for change: UInt8 in [1, 0x80, 0xff] {
                var changed = bytes
                changed[position] ^= change
                do {
                    let read = try changed.withUnsafeBytes { try Configuration(decoding: $0) }
                    #expect(try read.encode().withUnsafeBytes { try Configuration(decoding: $0) } == read)
                } catch is MalformedBytes {
                    refused += 1
                }
            }
        }
        #expect(refused > 0)
    }
}
