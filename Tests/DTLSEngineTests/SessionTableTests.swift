import COpenSSL
import Primitives
import TestSupport
import Testing

@testable import DTLSEngine

/// Memory as several processes share it, for a number of tables.
private final class Memory {
    let bytes: UnsafeMutableRawBufferPointer

    init(buckets: Int = 1) {
        bytes = .allocate(byteCount: buckets * SessionTable.bucketByteCount, alignment: 8)
        bytes.initializeMemory(as: UInt8.self, repeating: 0)
    }

    deinit { bytes.deallocate() }

    /// What a process has mapped.
    func table() throws -> SessionTable { try #require(SessionTable(bytes, owner: self)) }

    func contains(_ text: [UInt8]) -> Bool {
        (0..<bytes.count - text.count).contains { bytes[$0..<$0 + text.count].elementsEqual(text) }
    }
}

/// The memory in which workers find each other's sessions.
@Suite struct SessionTableTests {
    private let start = Instant(nanoseconds: 5_000_000_000)

    private func id(_ number: Int) -> [UInt8] {
        withUnsafeBytes(of: number.bigEndian) { Array(repeating: 7, count: 24) + $0 }
    }

    private func session(_ number: Int, size: Int = 200) -> [UInt8] {
        Array("session \(number):".utf8) + [UInt8](repeating: UInt8(truncatingIfNeeded: number), count: size)
    }

    private func insert(
        _ number: Int, into table: SessionTable, size: Int = 200, after time: Duration = .zero
    ) {
        id(number).withUnsafeBytes { table.insert(session(number, size: size), id: $0, now: start + time) }
    }

    private func find(_ number: Int, in table: SessionTable) -> [UInt8]? {
        id(number).withUnsafeBytes { table.session($0) }
    }

    @Test func `what one process puts in, another finds`() throws {
        let memory = Memory(buckets: 8)
        let (one, other) = (try memory.table(), try memory.table())
        for number in 0..<40 { insert(number, into: number.isMultiple(of: 2) ? one : other) }
        for number in 0..<40 { #expect(find(number, in: number.isMultiple(of: 2) ? other : one) == session(number)) }
        #expect(find(40, in: one) == nil)
    }

    @Test func `a session with the same ID replaces the former one`() throws {
        let memory = Memory()
        let table = try memory.table()
        for number in 0..<3 { insert(number, into: table) }
        id(1).withUnsafeBytes { table.insert([9, 9, 9], id: $0, now: start) }
        #expect(find(1, in: table) == [9, 9, 9])
        #expect(find(0, in: table) == session(0) && find(2, in: table) == session(2))
        #expect(!memory.contains(session(1)))
    }

    @Test func `the oldest sessions make room, and are wiped`() throws {
        let memory = Memory()
        let table = try memory.table()
        for number in 0..<100 { insert(number, into: table) }
        let kept = (0..<100).filter { find($0, in: table) != nil }
        #expect(kept.count > 10 && kept == Array(100 - kept.count..<100))
        for number in 0..<100 - kept.count { #expect(!memory.contains(session(number))) }
        // One that needs the whole bucket, and one that needs more.
        let largest = SessionTable.maximumSize - id(0).count - session(200, size: 0).count
        insert(201, into: table, size: largest + 8)
        #expect(find(201, in: table) == nil && find(99, in: table) != nil)
        insert(200, into: table, size: largest)
        #expect(find(200, in: table) == session(200, size: largest) && find(99, in: table) == nil)
    }

    /// A process was killed while it wrote: the word at the beginning of the bucket says when it began.
    @Test func `a lock whose owner has died is broken after a second`() throws {
        let memory = Memory()
        let table = try memory.table()
        insert(1, into: table)
        memory.bytes.storeBytes(of: (start.nanoseconds / 1_000_000) << 24 | 5, as: UInt64.self)
        memory.bytes.storeBytes(of: 7, toByteOffset: 8, as: UInt64.self)
        insert(2, into: table, after: .milliseconds(999))
        #expect(find(2, in: table) == nil)
        #expect(find(1, in: table) == session(1), "who reads waits for nobody")
        insert(3, into: table, after: .seconds(1))
        #expect(find(3, in: table) == session(3))
        #expect(find(1, in: table) == nil, "nobody knows what was half written")
        #expect(memory.bytes.load(as: UInt64.self) == 0)
    }

    @Test func `a session that is not whole is not found`() throws {
        let memory = Memory()
        let table = try memory.table()
        insert(1, into: table)
        let place = try #require(
            (0..<memory.bytes.count).first { memory.bytes[$0..<$0 + 9].elementsEqual("session 1".utf8) })
        memory.bytes[place + 50] ^= 1
        #expect(find(1, in: table) == nil)
    }

    /// Whatever a process has left behind.
    @Test(arguments: 1...20) func `no bytes in the memory do any harm`(_ seed: Int) throws {
        let memory = Memory()
        var random = SeededGenerator(seed: UInt64(seed))
        for index in memory.bytes.indices {
            memory.bytes[index] = Bool.random(using: &random) ? 0 : UInt8.random(in: 0...255, using: &random)
        }
        memory.bytes.storeBytes(of: 0, as: UInt64.self)
        memory.bytes.storeBytes(of: UInt64.random(in: 0...5_000, using: &random), toByteOffset: 16, as: UInt64.self)
        let table = try memory.table()
        for number in 0..<50 {
            #expect(find(number, in: table) == nil)
            insert(number, into: table)
            #expect(find(number, in: table) == session(number))
        }
    }
}

/// Clients that resume sessions by their IDs (RFC 5246, section 7.3), since they have no tickets.
@Suite struct SessionIDTests {
    let certificates: TestCertificates
    private let memory = Memory(buckets: 16)

    init() throws { certificates = try TestCertificates.make() }

    private func server(_ change: (inout ServerSettings) -> Void = { _ in }) -> ServerSettings {
        var settings = ServerSettings(
            certificate: certificates.ecdsaServer.certificate, privateKey: certificates.ecdsaServer.privateKey)
        change(&settings)
        return settings
    }

    /// An established pair whose client has no tickets.
    private func pair(
        _ session: ResumableSession? = nil, _ server: ServerSettings? = nil, client: ClientSettings? = nil
    ) throws -> EnginePair {
        let pair = try EnginePair(
            client: client ?? ClientSettings(certificateAuthorities: certificates.authority),
            server: server ?? self.server(), session: session, sessions: memory.table(),
            prepareClient: { SSL_set_options($0, CO_SSL_OP_NO_TICKET) })
        pair.handshake()
        try #require(pair.client.isEstablished && pair.server.isEstablished)
        return pair
    }

    @Test func `a session is resumed by its ID, from whatever process`() throws {
        let first = try pair()
        #expect(first.server.engine?.isResumed == false)
        var session = try #require(first.client.session)
        for _ in 0..<3 {
            let next = try pair(session)
            #expect(next.server.engine?.isResumed == true && next.client.engine?.isResumed == true)
            try next.send([1, 2, 3], from: .client)
            next.run()
            #expect(next.server.messages == [[1, 2, 3]])
            session = try #require(next.client.session)
        }
    }

    /// Nothing about a client that has tickets is kept.
    @Test func `a client with a ticket leaves nothing behind`() throws {
        let pair = try EnginePair(
            client: ClientSettings(certificateAuthorities: certificates.authority), server: server(),
            sessions: memory.table())
        pair.handshake()
        #expect(pair.server.isEstablished && pair.client.session != nil)
        #expect(memory.bytes.allSatisfy { $0 == 0 })
    }

    @Test func `a session is of no use once the settings are others`() throws {
        let session = try #require(pair().client.session)
        let root = try MadeCertificate("Root", isAuthority: true).pem()
        let changes: [(inout ServerSettings) -> Void] = [
            { $0.clients = PeerVerification(mode: .requested, authorities: root) },
            { $0.ciphers = "ECDHE+AESGCM" }, { $0.groups = "P-256" }, { $0.sessions.resumption = false },
        ]
        for change in changes { #expect(try pair(session, server(change)).server.engine?.isResumed == false) }
        #expect(try pair(session).server.engine?.isResumed == true)
    }

    @Test func `a session is of no use once the pre-shared key is another`() throws {
        let identity = Array("sensor-7".utf8)
        func settings(_ key: UInt8) -> (ServerSettings, ClientSettings) {
            let key = PresharedKey(identity: identity, key: [UInt8](repeating: key, count: 16))
            var client = ClientSettings()
            client.presharedKey = key
            return (self.server { $0.presharedKeys = PresharedKeys(keys: [key]) }, client)
        }
        let (server, client) = settings(1)
        let first = try pair(nil, server, client: client)
        let session = try #require(first.client.session)
        let again = try pair(session, server, client: client)
        #expect(again.server.engine?.isResumed == true)
        #expect(again.server.engine?.details?.presharedKeyIdentity == identity)
        let (changed, changedClient) = settings(2)
        #expect(try pair(session, changed, client: changedClient).server.engine?.isResumed == false)
    }

    @Test func `a client's certificate is known again`() throws {
        let root = try MadeCertificate("Root", isAuthority: true)
        let own = try MadeCertificate("device", issuer: root).identity()
        let authorities = try root.pem()
        let server = self.server { $0.clients = PeerVerification(mode: .required, authorities: authorities) }
        var client = ClientSettings(certificateAuthorities: certificates.authority)
        (client.certificate, client.privateKey) = (own.certificate, own.privateKey)
        let first = try pair(nil, server, client: client)
        let next = try pair(first.client.session, server, client: client)
        #expect(next.server.engine?.isResumed == true)
        #expect(next.server.engine?.details?.peerName == first.server.engine?.details?.peerName)
        #expect(next.server.engine?.details?.peerName?.commonName == "device")
    }
}
