import COpenSSL
import Primitives
import TestSupport
import Testing

@testable import DTLSEngine

/// Private keys that another process holds: here an object, which is asked by the same messages.
@Suite struct HeldKeyTests {
    private let certificates: TestCertificates

    init() throws { certificates = try TestCertificates.make() }

    /// The process that holds the keys, and the channel to it.
    private final class Holder {
        var vault: [KeyID: VaultKey] = [:]
        var tables: [KeyID: PresharedKeyVault] = [:]
        private var user = KeyUser()
        private(set) var requests: [[UInt8]] = []
        private(set) var violations: [String] = []
        var mayUse = true
        let keys = HeldKeys()

        init(_ material: [PrivateKeyMaterial], _ presharedKeys: [PresharedKeyMaterial?] = []) throws {
            for key in try material.map(VaultKey.init) { vault[key.id] = key }
            for table in presharedKeys.compactMap({ $0.map(PresharedKeyVault.init) }) { tables[table.id] = table }
            connect()
        }

        func connect() {
            user = KeyUser()
            keys.connect { [weak self] request, _ in
                // A context may live longer.
                guard let self else { return nil }
                requests.append(request)
                let outcome = request.withUnsafeBytes {
                    user.receive(
                        $0, find: { id, uses in vault[id].flatMap { $0.uses.isSuperset(of: uses) ? $0 : nil } },
                        findTable: { tables[$0] }, mayUse: { mayUse })
                }
                switch outcome {
                case .answer(let answer): return answer.bytes
                case .nothing: return nil
                case .violation(let reason):
                    violations.append(reason)
                    return nil
                }
            }
        }

        /// How many requests there were of a kind, by its number.
        func count(_ kind: UInt8) -> Int { requests.count { $0.first == kind } }
    }

    private func handshake(
        _ client: ClientSettings, _ server: ServerSettings, _ holder: Holder, payloadSize: Int = 1_452
    ) throws -> EnginePair {
        let pair = try EnginePair(
            client: client, server: server, payloadSize: payloadSize, heldKeys: holder.keys)
        pair.handshake()
        return pair
    }

    private func server(
        _ identities: [TestCertificates.Identity], ciphers: String? = nil, signatures: String? = nil,
        versions: ClosedRange<ProtocolVersion> = .dtls12...(.dtls12)
    ) -> ServerSettings {
        var settings = ServerSettings(
            certifiedKeys: identities.map { CertifiedKey(certificate: $0.certificate, privateKey: $0.privateKey) },
            ciphers: ciphers, minimumVersion: versions.lowerBound, maximumVersion: versions.upperBound)
        settings.signatureAlgorithms = signatures
        return settings
    }

    private static let old = "@SECLEVEL=0"

    @Test(
        arguments: [
            (false, nil, "ECDSA+SHA256", .dtls12), (false, nil, "ECDSA+SHA512", .dtls12), (true, nil, nil, .dtls12),
            (true, nil, "RSA-PSS+SHA256", .dtls12), (true, nil, "RSA+SHA384", .dtls12),
            (true, "DHE-RSA-AES128-GCM-SHA256", nil, .dtls12), (true, "ECDHE+AES:\(old)", nil, .dtls10),
            (false, "ECDHE+AES:\(old)", nil, .dtls10), (true, "DHE+AES:\(old)", nil, .dtls10),
        ] as [(Bool, String?, String?, ProtocolVersion)])
    func `a server signs with a key that it does not have`(
        _ rsa: Bool, _ ciphers: String?, _ signatures: String?, _ version: ProtocolVersion
    ) throws {
        let identity = rsa ? certificates.rsaServer : certificates.ecdsaServer
        var server = server([identity], ciphers: ciphers, signatures: signatures, versions: version...version)
        let holder = try Holder(server.separatePrivateKeys())
        #expect(server.certifiedKeys.allSatisfy { $0.privateKey.isHeld })
        let client = ClientSettings(
            certificateAuthorities: certificates.authority, ciphers: ciphers, minimumVersion: version,
            maximumVersion: version)
        let pair = try handshake(client, server, holder)
        #expect(pair.client.isEstablished && pair.server.isEstablished, "\(String(describing: pair.server.error))")
        #expect(holder.count(1) == 1 && holder.count(3) == 1 && holder.violations.isEmpty)
    }

    @Test(arguments: [ProtocolVersion.dtls12, .dtls10])
    func `a server decrypts with a key that it does not have`(_ version: ProtocolVersion) throws {
        let ciphers = "AES128-SHA:@SECLEVEL=0"
        var server = server([certificates.rsaServer], ciphers: ciphers, versions: version...version)
        let holder = try Holder(server.separatePrivateKeys())
        let client = ClientSettings(
            certificateAuthorities: certificates.authority, ciphers: ciphers, minimumVersion: version,
            maximumVersion: version)
        let pair = try handshake(client, server, holder)
        #expect(pair.client.isEstablished && pair.server.isEstablished, "\(String(describing: pair.server.error))")
        #expect(holder.count(4) == 1 && holder.count(3) == 0 && holder.violations.isEmpty)
    }

    @Test func `a key that is held already has the uses of a newer configuration too`() throws {
        var modern = server([certificates.rsaServer])
        let holder = try Holder(modern.separatePrivateKeys())
        let context = try ServerContext(modern, tickets: nil, sessions: nil, heldKeys: holder.keys)
        let ciphers = "AES128-SHA:@SECLEVEL=0"
        var legacy = server([certificates.rsaServer], ciphers: ciphers)
        let key = try #require(try legacy.separatePrivateKeys().map(VaultKey.init).first)
        #expect(holder.vault.updateValue(key, forKey: key.id) != nil)
        let client = ClientSettings(certificateAuthorities: certificates.authority, ciphers: ciphers)
        #expect(try handshake(client, legacy, holder).client.isEstablished)
        #expect(holder.count(1) == 1 && holder.count(4) == 1 && holder.violations.isEmpty)
        withExtendedLifetime(context) {}
    }

    @Test func `each of several certificates has its own key`() throws {
        var server = server([certificates.rsaServer, certificates.ecdsaServer])
        server.names = [
            VirtualHost(
                name: "other",
                certifiedKeys: [
                    CertifiedKey(
                        certificate: certificates.client.certificate, privateKey: certificates.client.privateKey)
                ])
        ]
        let holder = try Holder(server.separatePrivateKeys())
        #expect(holder.vault.count == 3)
        for ciphers in ["ECDHE-RSA-AES128-GCM-SHA256", "ECDHE-ECDSA-AES128-GCM-SHA256"] {
            let client = ClientSettings(certificateAuthorities: certificates.authority, ciphers: ciphers)
            #expect(try handshake(client, server, holder).client.isEstablished)
        }
        #expect(holder.violations.isEmpty)
    }

    @Test(arguments: [true, false], [ProtocolVersion.dtls12, .dtls10])
    func `a client signs with a key that it does not have`(_ rsa: Bool, _ version: ProtocolVersion) throws {
        let ciphers = version == .dtls10 ? "ECDHE+AES:@SECLEVEL=0" : nil
        var server = server([certificates.ecdsaServer], ciphers: ciphers, versions: version...version)
        server.clients = PeerVerification(mode: .required, authorities: certificates.authority)
        let identity = rsa ? certificates.rsaServer : certificates.client
        var client = ClientSettings(
            certificateAuthorities: certificates.authority, certificate: identity.certificate,
            privateKey: identity.privateKey, ciphers: ciphers, minimumVersion: version, maximumVersion: version)
        let holder = try Holder(client.separatePrivateKeys())
        #expect(client.privateKey == nil && client.key?.isHeld == true)
        // The messages come in many fragments, and are signed as if they had not.
        let pair = try handshake(client, server, holder, payloadSize: 300)
        #expect(pair.client.isEstablished && pair.server.isEstablished, "\(String(describing: pair.client.error))")
        #expect(holder.count(3) == 1 && holder.violations.isEmpty)
    }

    @Test(.enabled(if: RawPublicKeys.missing == nil, "OpenSSL has none"))
    func `raw public keys can be held too`() throws {
        let (serverKey, deviceKey) = (try Key(.ecdsa), try Key(.rsa))
        func known(_ key: Key) throws -> KnownPublicKeys {
            KnownPublicKeys([
                KnownPublicKey(name: "peer", fingerprint: try #require(RawPublicKeys.fingerprint(of: key.pointer)))
            ])
        }
        var server = ServerSettings(certifiedKeys: [])
        server.bareKeys = [BareKey(privateKey: try serverKey.pem())]
        server.clients = PeerVerification(mode: .required, publicKeys: try known(deviceKey))
        var client = ClientSettings(privateKey: try deviceKey.pem())
        client.serverPublicKeys = try known(serverKey)
        client.offersRawPublicKey = true
        let holder = try Holder(server.separatePrivateKeys() + client.separatePrivateKeys())
        let pair = try handshake(client, server, holder)
        #expect(pair.client.isEstablished && pair.server.isEstablished, "\(String(describing: pair.server.error))")
        #expect(holder.count(3) == 2 && holder.violations.isEmpty)
    }

    @Test func `a key with a passphrase is separated from it`() throws {
        var server = server([certificates.ecdsaServer])
        let text = try PEM.encrypted(certificates.ecdsaServer.privateKey, passphrase: "sesame")
        server.certifiedKeys[0].privateKey = .pem(text)
        #expect(throws: CredentialsError.self) { try server.separatePrivateKeys() }
        server.certifiedKeys[0].passphrase = "sesame"
        let holder = try Holder(server.separatePrivateKeys())
        #expect(server.certifiedKeys[0].passphrase == nil)
        let client = ClientSettings(certificateAuthorities: certificates.authority)
        #expect(try handshake(client, server, holder).client.isEstablished)
    }

    private enum PEM {
        static func encrypted(_ text: String, passphrase: String) throws -> String {
            let key = try OwnKey(pem: text, passphrase: nil)
            return try DTLSEngineTests.text {
                PEM_write_bio_PKCS8PrivateKey($0, key.pointer, EVP_aes_128_cbc(), passphrase, 6, nil, nil)
            }
        }
    }

    @Test func `a key stays as long as a context has it, whatever the newest configuration has`() throws {
        var settings = server([certificates.ecdsaServer])
        let holder = try Holder(settings.separatePrivateKeys())
        var contexts = try (0..<2).map { _ in
            try ServerContext(settings, tickets: nil, sessions: nil, heldKeys: holder.keys)
        }
        #expect(holder.count(1) == 1)
        weak let key = holder.vault.values.first
        holder.vault = [:]
        #expect(key != nil)
        contexts.removeLast()
        #expect(key != nil && holder.count(2) == 0)
        contexts.removeLast()
        #expect(key == nil && holder.count(2) == 1)
        #expect(throws: CredentialsError.privateKey("the key process does not have this key")) {
            try ServerContext(settings, tickets: nil, sessions: nil, heldKeys: holder.keys)
        }
    }

    @Test func `a handshake fails where nobody answers, and the next one does not`() throws {
        var settings = server([certificates.ecdsaServer])
        let holder = try Holder(settings.separatePrivateKeys())
        let client = ClientSettings(certificateAuthorities: certificates.authority)
        holder.keys.disconnect()
        // The context is made all the same: the key is asked for as soon as somebody answers.
        let failed = try handshake(client, settings, holder)
        #expect("\(failed.server.error.map { "\($0)" } ?? "")".contains("the key process does not answer"))
        #expect(!failed.client.isEstablished)
        holder.connect()
        let context = try ServerContext(settings, tickets: nil, sessions: nil, heldKeys: holder.keys)
        // Another process has taken its place, which has not been asked yet.
        holder.connect()
        #expect(try handshake(client, settings, holder).client.isEstablished)
        withExtendedLifetime(context) {}
        holder.mayUse = false
        let refused = try handshake(client, settings, holder)
        #expect("\(refused.server.error.map { "\($0)" } ?? "")".contains("more often than its handshakes explain"))
    }

    @Test func `a certificate with another key is refused`() throws {
        var settings = server([certificates.ecdsaServer])
        let holder = try Holder(settings.separatePrivateKeys())
        settings.certifiedKeys[0].certificate = certificates.client.certificate
        #expect(throws: CredentialsError.mismatch("the private key does not belong to the certificate")) {
            try ServerContext(settings, tickets: nil, sessions: nil, heldKeys: holder.keys)
        }
        #expect(throws: CredentialsError.self) { try ServerContext(settings, tickets: nil, sessions: nil) }
    }

    // MARK: Pre-shared keys

    private static let psk = PresharedKey(identity: Array("sensor-7".utf8), key: [UInt8](repeating: 0xa5, count: 16))
    private static let otherPSK = PresharedKey(identity: Array("sensor-8".utf8), key: [UInt8](repeating: 3, count: 32))

    private static func sharing() -> ServerSettings {
        var settings = ServerSettings(certifiedKeys: [])
        settings.presharedKeys = PresharedKeys(keys: [psk, otherPSK])
        return settings
    }

    @Test func `a server asks for the key of one identity at a time`() throws {
        var settings = Self.sharing()
        let holder = try Holder([], [settings.separatePresharedKeys()])
        #expect(settings.presharedKeys?.keys.isEmpty == true)
        #expect(try settings.separatePresharedKeys() == nil, "they are held already")
        for key in [Self.psk, Self.otherPSK] {
            let before = holder.requests.count
            let pair = try handshake(ClientSettings(presharedKey: key), settings, holder)
            #expect(pair.client.isEstablished && pair.server.isEstablished)
            #expect(pair.server.engine?.peerName?.presharedKeyIdentity == String(decoding: key.identity, as: UTF8.self))
            // The note in the ticket takes no other one.
            let questions = holder.requests[before...].filter { $0.first == 5 }
            #expect(questions.count == 1)
            #expect(questions.first?.suffix(8).elementsEqual(key.identity) == true)
        }
        #expect(holder.violations.isEmpty)
    }

    @Test func `a session with a held key is resumed while that is the same`() throws {
        let ticketKeys = [UInt8](repeating: 7, count: ServerContext.ticketKeyLength)
        func pair(_ key: PresharedKey, resuming session: ResumableSession?) throws -> EnginePair {
            var settings = ServerSettings(certifiedKeys: [])
            settings.presharedKeys = PresharedKeys(keys: [key])
            let holder = try Holder([], [settings.separatePresharedKeys()])
            let pair = try EnginePair(
                client: ClientSettings(presharedKey: key), server: settings, ticketKeys: ticketKeys, session: session,
                heldKeys: holder.keys)
            pair.handshake()
            // A resumed handshake asks once, too: whether the key is still the same.
            #expect(holder.count(5) == 1)
            return pair
        }
        let first = try pair(Self.psk, resuming: nil)
        let session = try #require(first.client.session)
        let second = try pair(Self.psk, resuming: session)
        #expect(second.server.engine?.isResumed == true)
        let changed = PresharedKey(identity: Self.psk.identity, key: [UInt8](repeating: 1, count: 16))
        var settings = ServerSettings(certifiedKeys: [])
        settings.presharedKeys = PresharedKeys(keys: [changed])
        let holder = try Holder([], [settings.separatePresharedKeys()])
        let third = try EnginePair(
            client: ClientSettings(presharedKey: changed), server: settings, ticketKeys: ticketKeys, session: session,
            heldKeys: holder.keys)
        third.handshake()
        #expect(third.server.isEstablished && third.server.engine?.isResumed == false)
    }

    @Test func `an identity without a key, and keys that cannot be had, are told apart`() throws {
        var settings = Self.sharing()
        let holder = try Holder([], [settings.separatePresharedKeys()])
        let nobody = ClientSettings(
            presharedKey: PresharedKey(identity: Array("nobody".utf8), key: Self.psk.key))
        let unknown = try handshake(nobody, settings, holder)
        #expect("\(try #require(unknown.server.error))".contains("unknown PSK identity \"nobody\""))
        #expect("\(try #require(unknown.client.error))".contains("unknown psk identity"))
        let client = ClientSettings(presharedKey: Self.psk)
        holder.mayUse = false
        let refused = try handshake(client, settings, holder)
        #expect("\(try #require(refused.server.error))".contains("asked more often than its handshakes explain"))
        #expect(!refused.client.isEstablished)
        holder.keys.disconnect()
        let unanswered = try handshake(client, settings, holder)
        #expect(
            "\(try #require(unanswered.server.error))".contains(
                "pre-shared key cannot be had: the key process does not answer"))
    }

    @Test func `a client asks for its own pre-shared key`() throws {
        var client = ClientSettings(presharedKey: Self.psk)
        let holder = try Holder([], [client.separatePresharedKey()])
        #expect(client.presharedKey == PresharedKey(identity: Self.psk.identity, key: []))
        #expect(try client.separatePresharedKey() == nil, "it is held already")
        let pair = try handshake(client, Self.sharing(), holder)
        #expect(pair.client.isEstablished && pair.server.isEstablished)
        #expect(holder.count(5) == 1)
    }

    @Test func `a table is held as long as a context has it`() throws {
        var settings = Self.sharing()
        let holder = try Holder([], [settings.separatePresharedKeys()])
        var context: ServerContext? = try ServerContext(
            settings, tickets: nil, sessions: nil, heldKeys: holder.keys)
        #expect(context != nil && holder.count(1) == 1)
        // The configuration is gone, and the table is still there for those who have it.
        holder.tables = [:]
        let id = try #require(settings.presharedKeys?.heldTable)
        let answer = Self.psk.identity.withUnsafeBytes { holder.keys.request(.presharedKey(table: id, identity: $0)) }
        #expect(answer == .done(Self.psk.key))
        context = nil
        #expect(holder.count(2) == 1)
        #expect(throws: CredentialsError.self) {
            try ServerContext(settings, tickets: nil, sessions: nil, heldKeys: holder.keys)
        }
        #expect(throws: CredentialsError.self) { try ServerContext(settings, tickets: nil, sessions: nil) }
    }

    @Test func `what no client has for an identity is not asked for`() throws {
        var settings = Self.sharing()
        let material = try #require(try settings.separatePresharedKeys())
        let table = PresharedKeyVault(material)
        var user = KeyUser()
        func ask(_ identity: [UInt8], mayUse: Bool = true) -> KeyUser.Outcome {
            identity.withUnsafeBytes {
                KeyRequest.presharedKey(table: table.id, identity: $0).bytes.withUnsafeBytes { request in
                    user.receive(
                        request, find: { _, _ in nil }, findTable: { $0 == table.id ? table : nil },
                        mayUse: { mayUse })
                }
            }
        }
        #expect(ask(Self.psk.identity) == .answer(.unknownKey), "it is not held")
        let hold = KeyRequest.hold(table.id).bytes.withUnsafeBytes {
            user.receive($0, find: { _, _ in nil }, findTable: { $0 == table.id ? table : nil }, mayUse: { false })
        }
        #expect(hold == .answer(.done([])))
        #expect(ask(Self.psk.identity) == .answer(.done(Self.psk.key)))
        #expect(ask(Array("sensor".utf8)) == .answer(.unknownIdentity))
        #expect(ask(Self.psk.identity, mayUse: false) == .answer(.tooMany))
        for wrong in [[], [UInt8](repeating: 65, count: 256)] {
            guard case .violation = ask(wrong) else {
                Issue.record("\(wrong.count) bytes are an identity")
                continue
            }
        }
    }

    @Test func `what is signed in no handshake is not signed`() throws {
        var settings = server([certificates.ecdsaServer])
        let key = try #require(try settings.separatePrivateKeys().map(VaultKey.init).first)
        var user = KeyUser()
        func ask(_ request: KeyRequest, mayUse: Bool = true) -> KeyUser.Outcome {
            request.bytes.withUnsafeBytes { bytes in
                user.receive(
                    bytes, find: { $0 == key.id && key.uses.isSuperset(of: $1) ? key : nil }, mayUse: { mayUse })
            }
        }
        func sign(_ content: [UInt8]) -> KeyUser.Outcome {
            content.withUnsafeBytes { ask(.sign(key.id, SignatureForm(hash: .sha256), content: $0)) }
        }
        let good = SignedContentTests.ecdhe(group: 29, length: 32)
        #expect(sign(good) == .answer(.unknownKey))
        #expect(ask(.hold(key.id)) == .answer(.done([])))
        let signed = sign(good)
        guard case .answer(.done(let signature)) = signed else {
            Issue.record("it is not signed: \(signed)")
            return
        }
        #expect(signature.count > 60)
        for content in [[], Array(good.dropLast()), good + [0], [UInt8](repeating: 7, count: 32)] {
            guard case .violation = sign(content) else {
                Issue.record("\(content.count) bytes are signed")
                continue
            }
        }
        // The key is a server's.
        #expect(
            sign(SignedContentTests.transcript()) == .violation("a signature of a kind that its key is not used for"))
        let secret = [UInt8](repeating: 1, count: 256)
        secret.withUnsafeBytes {
            #expect(
                ask(.decrypt(key.id, version: 0xfefd, secret: $0))
                    == .violation("to decrypt with a key whose service has no cipher suites for that"))
        }
        good.withUnsafeBytes {
            let form = SignatureForm(hash: .sha256, isPSS: true)
            #expect(ask(.sign(key.id, form, content: $0)) == .answer(.failed))
            #expect(ask(.sign(key.id, form, content: $0), mayUse: false) == .answer(.tooMany))
        }
        #expect(ask(.release(key.id)) == .nothing)
        #expect(sign(good) == .answer(.unknownKey))
    }

    @Test func `a request that is cut or longer is malformed`() throws {
        let key = try Key(.ecdsa)
        let id = try #require(KeyID(of: key.pointer))
        let content: [UInt8] = [1, 2, 3]
        let requests: [[UInt8]] = content.withUnsafeBytes { content in
            [
                .hold(id), .release(id), .sign(id, SignatureForm(hash: .sha256), content: content),
                .decrypt(id, version: 0xfefd, secret: content), .presharedKey(table: id, identity: content),
            ].map { (request: KeyRequest) in request.bytes }
        }
        for request in requests {
            for wrong in (0..<request.count).map({ Array(request.prefix($0)) }) + [request + [0]] {
                #expect(throws: MalformedBytes.self) {
                    try wrong.withUnsafeBytes { try KeyRequest(decoding: $0).bytes }
                }
            }
            let again = try request.withUnsafeBytes { try KeyRequest(decoding: $0).bytes }
            #expect(again == request)
        }
    }
}

/// What is signed in handshakes, and what only looks like it.
@Suite struct SignedContentTests {
    static let random = [UInt8](repeating: 0x5a, count: 64)

    static func ecdhe(group: UInt8, length: Int, first: UInt8 = 4) -> [UInt8] {
        random + [3, 0, group, UInt8(length), first] + [UInt8](repeating: 9, count: length - 1)
    }

    private static func vector(_ bytes: [UInt8]) -> [UInt8] {
        [UInt8(bytes.count >> 8), UInt8(bytes.count & 255)] + bytes
    }

    static func dhe(prime: Int = 256, last: UInt8 = 7, value: Int = 256) -> [UInt8] {
        random + vector([0x80] + [UInt8](repeating: 1, count: prime - 2) + [last]) + vector([2])
            + vector([UInt8](repeating: 3, count: value))
    }

    static func message(_ type: UInt8, _ number: UInt8, _ body: [UInt8] = [0xfe, 0xfd, 1]) -> [UInt8] {
        let count = [0, UInt8(body.count >> 8), UInt8(body.count & 255)]
        return [type] + count + [0, number, 0, 0, 0] + count + body
    }

    static func transcript(_ types: [UInt8] = [1, 2, 11, 12, 13, 14, 11, 16]) -> [UInt8] {
        types.enumerated().flatMap { message($1, UInt8($0)) }
    }

    private func kind(_ bytes: [UInt8]) -> SignedContent? { bytes.withUnsafeBytes { SignedContent($0) } }

    @Test func `parameters of a server are told from others`() {
        for (group, length) in [(29, 32), (30, 56), (23, 65), (24, 97), (25, 133), (26, 65), (27, 97), (28, 129)] {
            let group = UInt8(group)
            #expect(kind(Self.ecdhe(group: group, length: length)) == .serverKeyExchange, "group \(group)")
            #expect(kind(Self.ecdhe(group: group, length: length) + [0]) == nil)
            #expect(kind(Array(Self.ecdhe(group: group, length: length).dropLast())) == nil)
            #expect(kind(Self.ecdhe(group: group, length: length + 2)) == nil)
        }
        #expect(kind(Self.ecdhe(group: 23, length: 65, first: 2)) == nil)
        #expect(kind(Self.ecdhe(group: 200, length: 65)) == nil)
        #expect(kind(Self.dhe()) == .serverKeyExchange)
        #expect(kind(Self.dhe(prime: 64, value: 64)) == nil)
        #expect(kind(Self.dhe(last: 8)) == nil)
        #expect(kind(Self.dhe(value: 257)) == nil)
        #expect(kind(Self.dhe() + [0]) == nil)
    }

    @Test func `the messages of a handshake are told from others`() {
        #expect(kind(Self.transcript()) == .certificateVerify)
        // Without certificate_status, and with it; without ServerKeyExchange; with a server's raw public key.
        #expect(kind(Self.transcript([1, 2, 11, 22, 12, 13, 14, 11, 16])) == .certificateVerify)
        #expect(kind(Self.transcript([1, 2, 11, 13, 14, 11, 16])) == .certificateVerify)
        for types: [UInt8] in [
            [], [1, 2], [1, 2, 11, 12, 14, 11, 16], [2, 1, 11, 12, 13, 14, 11, 16], [1, 2, 11, 12, 13, 14, 11, 16, 20],
            [1, 1, 2, 11, 12, 13, 14, 11, 16],
        ] {
            #expect(kind(Self.transcript(types)) == nil, "\(types)")
        }
        #expect(kind(Self.transcript() + [0]) == nil)
        #expect(kind(Array(Self.transcript().dropLast())) == nil)
        var fragment = Self.transcript()
        fragment[8] = 1
        #expect(kind(fragment) == nil)
        var otherVersion = Self.transcript()
        otherVersion[12] = 3
        #expect(kind(otherVersion) == nil)
    }

    @Test func `what other protocols sign is no content of a handshake`() {
        // TLS 1.3 and DTLS 1.3 (RFC 8446, section 4.4.3), a hash, a certificate's beginning, a token.
        let context = [UInt8](repeating: 32, count: 64)
        for side in ["TLS 1.3, server CertificateVerify", "TLS 1.3, client CertificateVerify"] {
            #expect(kind(context + side.utf8 + [0] + [UInt8](repeating: 7, count: 32)) == nil)
        }
        for length in [20, 28, 32, 36, 48, 64] { #expect(kind([UInt8](repeating: 3, count: length)) == nil) }
        #expect(kind([0x30, 0x82, 1, 0] + [UInt8](repeating: 0x30, count: 256)) == nil)
        #expect(kind(Array("eyJhbGciOiJFUzI1NiJ9.".utf8) + [UInt8](repeating: 0x41, count: 200)) == nil)
    }
}
