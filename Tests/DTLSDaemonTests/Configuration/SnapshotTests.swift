import DTLSEngine
import DTLSTransport
import LinuxSystem
import Primitives
import TestSupport
import Testing

@testable import DTLSDaemon

/// The bytes that processes exchange: a configuration, or the problems of one.
@Suite struct SnapshotTests {
    /// A configuration in which every optional has a value, and every handler occurs.
    private func full() throws -> Snapshot {
        let addresses = try ["0.0.0.0:4433", "[fe80::1%1]:4434"].map { try #require(SocketAddress($0)) }
        let presharedKey = PresharedKey(identity: [0xff, 1], key: [0, 1, 2])
        var key = CertifiedKey(certificate: "certificate\n", privateKey: "key", passphrase: "p")
        key.staple = OCSPStaple(checked: [1, 2], expiry: UnixTime(seconds: 3), start: UnixTime(seconds: 2))
        var tls = ServerSettings(
            certifiedKeys: [key],
            clients: PeerVerification(
                mode: .requested, authorities: "ca", revocationLists: ["one", ""],
                revocationCheck: .leaf, purpose: .any,
                allow: [try PeerRule("sha256:" + String(repeating: "0a", count: 32))],
                deny: [try PeerRule("cn:ä"), try PeerRule("IP:192.0.2.0/24")]),
            ciphers: "ALL", minimumVersion: .dtls10, maximumVersion: .dtls12, allowsRenegotiation: true)
        let known = KnownPublicKeys([
            KnownPublicKey(name: "sensor-7", fingerprint: Array(1...32)),
            KnownPublicKey(name: "ä", fingerprint: Array(2...33)),
        ])
        (tls.bareKeys, tls.offersRawPublicKeys) = ([BareKey(privateKey: "k", passphrase: "p")], true)
        (tls.clients.publicKeys, tls.clients.isEnforced) = (known, false)
        tls.names = [VirtualHost(name: "*.example.org", certifiedKeys: [key])]
        (tls.refusesUnknownNames, tls.choosesByAddress, tls.policy) = (true, true, .legacy)
        tls.applicationProtocols = ["coap", "ä"]
        tls.presharedKeys = PresharedKeys(keys: [presharedKey, PresharedKey(identity: [2], key: [3])], hint: [0xfe])
        tls.presharedKeys?.heldTable = try KeyID.random()
        tls.connectionIDs = true
        tls.authorization = .all
        (tls.keepsPeerCertificates, tls.srtpProfiles) = (true, ["SRTP_AEAD_AES_128_GCM"])
        (tls.groups, tls.signatureAlgorithms) = ("P-256", "ECDSA+SHA256")
        tls.sessions = SessionSettings(resumption: false, tickets: false, lifetime: .seconds(3))
        let socket = SocketOptions(
            receiveBuffer: 1_024, sendBuffer: 16_777_216, timeToLive: 0, dscp: 0, interface: "lo", ipv6Only: false,
            fragmentation: true, freeBind: true)
        let rate = Rate(perThousandSeconds: 1, burst: 2)
        let limits = LimitsConfiguration(
            connections: 1, connectionsPerPrefix: 2, handshakes: 3, handshakesPerSecond: rate,
            handshakesPerSecondPerPrefix: rate, prefixes: .init(ipv4: 8, ipv6: 9),
            traffic: TrafficLimits(largestDatagram: 4, datagramsPerSecond: rate, bytesPerSecond: rate),
            access: AccessList(
                [.init(try NetworkPrefix(parsing: "10.0.0.0/8"), allows: true)], otherwise: false))
        let source = LocalSource(
            address: try #require(SocketAddress(host: "::1", port: 0)), ports: PortRange(first: 40_000, last: 40_999))
        let handlers: [HandlerConfiguration] = [
            .forward(
                ForwardConfiguration(
                    backends: try .of(
                        .unix("/run/ä.sock"), .udp("[::1]:1"), Backend(name: "udp:b:1", address: .name("b", port: 1))),
                    rules: [
                        ForwardRule(
                            name: "r",
                            conditions: try .of(
                                .serverName([try BytePattern("a*ä")]), .applicationProtocol([try BytePattern("a")]),
                                .identity([try BytePattern("a*b")]), .certificateName([try PeerRule("cn:a")])),
                            backends: try .of(.unix("/b")))
                    ],
                    sources: [source], interface: "wg0", proxyProtocol: true, parks: true,
                    healthCheck: HealthCheck(
                        datagram: [1], expected: BytePattern(pieces: [[2]]),
                        sources: [try #require(SocketAddress(host: "::1", port: 0))], interface: "wg0"))),
            .exec(
                ExecConfiguration(
                    command: try .of("/bin/ä", ""), programsPerWorker: 3,
                    limits: .init(memory: 1, processorTime: 2, openFiles: 3))),
            .log(.standard), .log(LogConfiguration(target: .file("/f"), format: .syslog)),
            .log(LogConfiguration(target: .syslog(socket: "/s"), format: .plain)), .echo,
        ]
        var client = ClientSettings(
            rejectUnauthorized: false, loadDefaultCertificates: true, certificateAuthorities: "ca",
            certificate: "certificate", privateKey: "key", passphrase: "p", presharedKey: presharedKey,
            ciphers: "ALL", minimumVersion: .dtls10, maximumVersion: .dtls12, allowsRenegotiation: true)
        (client.serverPublicKeys, client.offersRawPublicKey) = (known, true)
        client.heldPresharedKeyTable = try KeyID.random()
        client.applicationProtocols = ["coap"]
        client.connectionIDs = true
        (client.keepsPeerCertificates, client.srtpProfiles) = (true, ["SRTP_AES128_CM_SHA1_80"])
        (client.groups, client.signatureAlgorithms, client.allowsLegacyServer) = ("X25519", "RSA+SHA256", true)
        var configuration = Configuration(
            workers: 7, stopTimeout: .milliseconds(1), logLevel: .warning, cookieSecret: Array(0...255),
            tickets: TicketConfiguration(
                keys: [try #require(TicketKey(Array(0..<80)))], rotation: .seconds(1), lifetime: .seconds(2)),
            keyLogFile: "/run/keys.log",
            services: handlers.enumerated().map { index, handler in
                ServiceConfiguration(
                    name: "service \(index)", listen: addresses, tls: tls, handshakeTimeout: .milliseconds(120_000),
                    idleTimeout: .milliseconds(86_400_000), parkAfter: .seconds(1), mtu: 9_000,
                    authorize: AuthorizeConfiguration(
                        path: "/ä", timeout: .seconds(1), cache: 1, cacheTime: .seconds(2), minimumKeyLength: 3),
                    handler: handler, socket: socket, limits: limits
                )
            },
            clients: [
                ClientConfiguration(
                    name: "client", listen: addresses, server: .name("b.example.org", port: 5_684),
                    serverName: "b.example.org", tls: client,
                    handshakeTimeout: .milliseconds(2_000), idleTimeout: .milliseconds(1),
                    answerTimeout: .milliseconds(2), mtu: 256, resumes: false,
                    socket: socket)
            ], limits: limits)
        configuration.recycle = .seconds(60)
        configuration.sessionCache = 7
        configuration.logFormat = .json
        configuration.control = ControlConfiguration(path: "/run/ä.sock", mode: 0o600, group: 7)
        configuration.credentials = [
            ExpiringCredential(
                content: .revocationList, kind: .client, owner: "a", host: "b", file: "c", subject: "d",
                issuedAt: UnixTime(seconds: 8), notAfter: UnixTime(seconds: 9))
        ]
        configuration.resolver = ResolverConfiguration(servers: addresses)
        configuration.names = [ConfiguredName(host: "b", place: try #require(problems.problems.first))]
        configuration.connectionIDs = ConnectionIDConfiguration(
            keys: [ConnectionIDKey(rotation: 3, bytes: Array(1...16))], serverID: [7, 8])
        for index in configuration.services.indices { configuration.services[index].parkAfter = .milliseconds(1) }
        for index in configuration.services.indices { configuration.services[index].connectionIDLength = 17 }
        for index in configuration.services.indices {
            configuration.services[index].retransmission = .seconds(9)
            configuration.services[index].recordMTU = .size(1_280)
        }
        configuration.clients[0].connectionIDLength = 5
        (configuration.clients[0].sources, configuration.clients[0].interface) = ([source], "wwan0")
        (configuration.clients[0].retransmission, configuration.clients[0].recordMTU) = (.seconds(60), .handshake)
        configuration.watchesCredentials = true
        configuration.user = UserAccount(name: "dtlsd", user: 3, group: 4, groups: [4, 5])
        configuration.staples = [StapleFile(service: "a", host: "b", path: "c", key: "d", isWatched: false)]
        configuration.warnings = problems.problems
        return Snapshot(configuration: configuration, cookieSecret: [9, 8])
    }

    /// A configuration in which no optional has a value, and no array an element.
    private let bare = Snapshot(
        configuration: Configuration(
            workers: 1, stopTimeout: .zero, logLevel: .debug,
            services: [
                ServiceConfiguration(
                    name: "", listen: [], tls: ServerSettings(certifiedKeys: []), handshakeTimeout: .zero,
                    idleTimeout: .zero, parkAfter: .zero, mtu: 0, handler: .echo, socket: SocketOptions())
            ]), cookieSecret: [])

    private let problems = ConfigurationProblems(problems: [
        ConfigurationProblem(file: "f", line: 3, key: "a.b", message: "ä", isTransient: true)
    ])

    /// A configuration of fewer bytes, for tests that change each of them.
    private func small() throws -> Snapshot {
        var snapshot = try full()
        var configuration = snapshot.configuration
        configuration.services.removeSubrange(1...)
        snapshot = Snapshot(configuration: configuration, cookieSecret: [1])
        return snapshot
    }

    private func decode(_ bytes: [UInt8]) throws(MalformedBytes) -> Snapshot { try BinaryCoding.decode(from: bytes) }

    /// The properties of `value` without a value, or with an empty array, which a round trip would not check.
    private static func gaps(in value: Any, at path: String = "") -> [String] {
        let mirror = Mirror(reflecting: value)
        if mirror.displayStyle == .optional || mirror.displayStyle == .collection, mirror.children.isEmpty {
            return [path]
        }
        if value is [UInt8] || value is String { return [] }
        return mirror.children.flatMap { gaps(in: $0.value, at: "\(path).\($0.label ?? "")") }
    }

    @Test func `every property of the snapshot is decoded`() throws {
        let snapshot = try full()
        // Workers have no ticket keys.
        let left = ".configuration.tickets.keys"
        #expect(
            Self.gaps(in: snapshot) == [left], "give these a value in full(), so that it is shown that they arrive")
        let copy = try decode(BinaryCoding.encode(snapshot))
        #expect(copy.configuration == snapshot.configuration && copy.cookieSecret == snapshot.cookieSecret)
        // No property has its default value, so that a property that is not encoded would be noticed.
        let defaults = Set(Self.leaves(of: bare))
        let unset = Self.leaves(of: snapshot).filter { defaults.contains($0) }
        #expect(unset.allSatisfy { $0.hasPrefix(left) }, "give these another value in full() than the default")
    }

    /// The properties of a snapshot, its first service and its first client, with their values.
    private static func leaves(of value: Any, at path: String = "") -> [String] {
        let mirror = Mirror(reflecting: value)
        if mirror.children.isEmpty || value is [UInt8] || value is String || value is Duration {
            return ["\(path) = \(value)"]
        }
        if mirror.displayStyle == .optional { return mirror.children.flatMap { leaves(of: $0.value, at: path) } }
        if mirror.displayStyle == .enum { return [] }
        if mirror.displayStyle == .collection { return leaves(of: mirror.children.first?.value ?? 0, at: path) }
        return mirror.children.flatMap { leaves(of: $0.value, at: "\(path).\($0.label ?? "")") }
    }

    @Test func `a property without a value is decoded without one`() throws {
        let copy = try decode(BinaryCoding.encode(bare))
        #expect(copy.configuration == bare.configuration && copy.cookieSecret.isEmpty)
    }

    @Test func `problems are decoded as they were encoded`() throws {
        #expect(Self.gaps(in: problems).isEmpty)
        let copy: ConfigurationProblems = try BinaryCoding.decode(from: BinaryCoding.encode(problems))
        #expect(copy == problems)
    }

    /// As `ForwardConfiguration` and `ExecConfiguration`, but for their lists.
    private struct LooseForward: Codable {
        var backends: [Backend]?
        var rules: [ForwardRule] = []
        var sources: [LocalSource] = []
        var interface: String?
        var proxyProtocol = false
        var parks = false
    }

    private struct LooseExec: Codable {
        var command: [String]
        var programsPerWorker = 1
        var limits = ForeignProgram.Limits(openFiles: 3)
    }

    @Test func `an empty list of backends and an empty command are refused`() throws {
        let backends = try BinaryCoding.decode(
            ForwardConfiguration.self, from: BinaryCoding.encode(LooseForward(backends: [.unix("/a")])))
        #expect(backends == ForwardConfiguration(backends: try .of(.unix("/a"))))
        #expect(throws: MalformedBytes.self) {
            try BinaryCoding.decode(
                ForwardConfiguration.self, from: BinaryCoding.encode(LooseForward(backends: [])))
        }
        let command = try BinaryCoding.decode(
            ExecConfiguration.self, from: BinaryCoding.encode(LooseExec(command: ["/a"])))
        #expect(command.command.elements == ["/a"])
        #expect(throws: MalformedBytes.self) {
            try BinaryCoding.decode(ExecConfiguration.self, from: BinaryCoding.encode(LooseExec(command: [])))
        }
    }

    @Test func `every truncation and every extra byte is refused`() throws {
        let bytes = BinaryCoding.encode(try small())
        for count in bytes.indices {
            #expect(throws: MalformedBytes.self) { try decode(Array(bytes[..<count])) }
        }
        #expect(throws: MalformedBytes.self) { try decode(bytes + [0]) }
    }

    @Test func `a changed byte yields another configuration or an error`() throws {
        let bytes = BinaryCoding.encode(try small())
        var refused = 0
        for position in bytes.indices {
            for change: UInt8 in [1, 0x80] {
                var changed = bytes
                changed[position] ^= change
                do {
                    let read = try decode(changed)
                    #expect(try decode(BinaryCoding.encode(read)).configuration == read.configuration)
                } catch {
                    refused += 1
                }
            }
        }
        #expect(refused > bytes.count)
    }

    @Test func `changes at random places do not trap`() throws {
        let bytes = BinaryCoding.encode(try full())
        var random = SeededGenerator(seed: 5)
        var refused = 0
        for _ in 0..<300 {
            var changed = bytes
            for _ in 0..<Int.random(in: 1...8, using: &random) {
                let position = Int.random(in: 0..<changed.count, using: &random)
                switch Int.random(in: 0..<3, using: &random) {
                case 0: changed[position] = UInt8.random(in: 0...255, using: &random)
                case 1: changed.remove(at: position)
                default: changed.insert(UInt8.random(in: 0...4, using: &random), at: position)
                }
            }
            if (try? decode(changed)) == nil { refused += 1 }
        }
        #expect(refused > 250)
    }

    @Test func `ranges of addresses that are not sorted are refused`() throws {
        func isTaken(_ starts: [UInt128], _ allows: [UInt8]) -> Bool {
            let bytes = zip(starts, allows).flatMap { start, answer in
                withUnsafeBytes(of: start.littleEndian) { [UInt8]($0) } + [answer]
            }
            return (try? BinaryCoding.decode(AccessList.Ranges.self, from: BinaryCoding.encode(bytes))) != nil
        }
        #expect(isTaken([0, 5], [1, 0]))
        #expect(!isTaken([], []) && !isTaken([1], [1]) && !isTaken([0, 0], [1, 0]) && !isTaken([0, 5], [1, 2]))
        let cutOff = BinaryCoding.encode([UInt8](repeating: 0, count: 16))
        #expect((try? BinaryCoding.decode(AccessList.Ranges.self, from: cutOff)) == nil)
    }
}
