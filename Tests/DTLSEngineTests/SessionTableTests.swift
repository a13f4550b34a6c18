import COpenSSL
import Primitives
import TestSupport
import Testing

@testable import DTLSEngine

/// Memory as several processes share it, for a number of tables.
private final class Memory {
    let bytes: UnsafeMutableRawBufferPointer

    init(buckets: Int = 1) {
        bytes = .allocate(
            byteCount: SessionTable.headerByteCount + buckets * SessionTable.bucketByteCount, alignment: 8)
        bytes.initializeMemory(as: UInt8.self, repeating: 0)
    }

    deinit { bytes.deallocate() }

    /// What a process has mapped.
    func table() throws -> SessionTable { try #require(SessionTable(bytes, owner: self)) }

    func contains(_ text: [UInt8]) -> Bool {
        (0..<bytes.count - text.count).contains { bytes[$0..<$0 + text.count].elementsEqual(text) }
    }

    /// Of the first bucket: its lock, its sequence number, the bytes of its entries, and then the entries.
    var bucket: UnsafeMutableRawBufferPointer {
        UnsafeMutableRawBufferPointer(
            rebasing: bytes[
                SessionTable.headerByteCount..<(SessionTable.headerByteCount + SessionTable.bucketByteCount)])
    }

    /// Whether nothing but zeros is behind the entries of the first bucket.
    var isWipedBehindEntries: Bool {
        bucket.dropFirst(24 + Int(bucket.load(fromByteOffset: 16, as: UInt64.self))).allSatisfy { $0 == 0 }
    }

    var isEmpty: Bool { bytes.dropFirst(SessionTable.headerByteCount).allSatisfy { $0 == 0 } }
}

/// The memory in which workers find each other's sessions.
@Suite struct SessionTableTests {
    private let start = Instant(nanoseconds: 5_000_000_000)

    /// What a ring makes of a name.
    private func key(_ number: Int) -> [UInt8] {
        var key = [UInt8](repeating: 0, count: SessionKey.byteCount)
        for index in key.indices { key[index] = UInt8(truncatingIfNeeded: (number + 1) &* (index &* 31 + 7)) }
        return key
    }

    private func withKey<Result>(_ number: Int, _ body: (SessionKey) -> Result) -> Result {
        key(number).withUnsafeBytes { body(SessionKey($0)) }
    }

    private func session(_ number: Int, size: Int = 200) -> [UInt8] {
        Array("session \(number):".utf8) + [UInt8](repeating: UInt8(truncatingIfNeeded: number), count: size)
    }

    @discardableResult
    private func insert(
        _ number: Int, into table: SessionTable, size: Int = 200, after time: Duration = .zero
    ) -> SessionTable.Insertion {
        withKey(number) { table.insert(session(number, size: size), key: $0, now: start + time) }
    }

    private func find(_ number: Int, in table: SessionTable) -> [UInt8]? {
        withKey(number) { table.session($0) }
    }

    @Test func `what one process puts in, another finds`() throws {
        let memory = Memory(buckets: 8)
        let (one, other) = (try memory.table(), try memory.table())
        for number in 0..<40 { insert(number, into: number.isMultiple(of: 2) ? one : other) }
        for number in 0..<40 { #expect(find(number, in: number.isMultiple(of: 2) ? other : one) == session(number)) }
        #expect(find(40, in: one) == nil)
    }

    @Test func `a session with the same key replaces the former one`() throws {
        let memory = Memory()
        let table = try memory.table()
        for number in 0..<3 { insert(number, into: table) }
        let insertion = withKey(1) { table.insert([9, 9, 9], key: $0, now: start) }
        #expect(insertion == .stored(replaced: 0))
        #expect(find(1, in: table) == [9, 9, 9])
        #expect(find(0, in: table) == session(0) && find(2, in: table) == session(2))
        #expect(memory.isWipedBehindEntries)
    }

    @Test func `the oldest sessions make room, and are wiped`() throws {
        let memory = Memory()
        let table = try memory.table()
        var replaced = 0
        for number in 0..<100 {
            guard case .stored(let count) = insert(number, into: table) else {
                Issue.record("\(number)")
                continue
            }
            replaced += count
        }
        let kept = (0..<100).filter { find($0, in: table) != nil }
        #expect(kept.count > 10 && kept == Array(100 - kept.count..<100) && replaced == 100 - kept.count)
        #expect(memory.isWipedBehindEntries)
        // One that needs the whole bucket, and one that needs more.
        let largest = SessionTable.maximumSize - session(200, size: 0).count
        #expect(insert(201, into: table, size: largest + 1) == .tooLarge)
        #expect(find(201, in: table) == nil && find(99, in: table) != nil)
        #expect(insert(200, into: table, size: largest) == .stored(replaced: kept.count))
        #expect(find(200, in: table) == session(200, size: largest) && find(99, in: table) == nil)
    }

    /// A process was killed while it wrote: the word at the beginning of the bucket says when it began.
    @Test func `a lock whose owner has died is broken after a second`() throws {
        let memory = Memory()
        let table = try memory.table()
        insert(1, into: table)
        memory.bucket.storeBytes(of: (start.nanoseconds / 1_000_000) << 24 | 5, as: UInt64.self)
        memory.bucket.storeBytes(of: 7, toByteOffset: 8, as: UInt64.self)
        #expect(insert(2, into: table, after: .milliseconds(999)) == .busy)
        #expect(find(2, in: table) == nil)
        #expect(find(1, in: table) == session(1), "who reads waits for nobody")
        insert(3, into: table, after: .seconds(1))
        #expect(find(3, in: table) == session(3))
        #expect(find(1, in: table) == nil, "nobody knows what was half written")
        #expect(memory.bucket.load(as: UInt64.self) == 0)
    }

    @Test func `a session that is not whole is not found`() throws {
        let memory = Memory()
        let table = try memory.table()
        insert(1, into: table)
        memory.bucket[24 + 24 + 100] ^= 1
        #expect(find(1, in: table) == nil)
    }

    /// Who can read the memory has to know the key as well.
    @Test func `neither a session nor its key stands in the memory`() throws {
        let memory = Memory()
        let table = try memory.table()
        insert(1, into: table)
        #expect(!memory.contains(Array(session(1).prefix(12))))
        #expect(!memory.contains(Array(key(1)[..<16])) && !memory.contains(Array(key(1)[16..<48])))
        #expect(!memory.isEmpty && find(1, in: table) == session(1))
    }

    @Test func `memory of another layout is not used`() throws {
        let memory = Memory()
        insert(1, into: try memory.table())
        #expect(find(1, in: try memory.table()) == session(1))
        memory.bytes.storeBytes(of: memory.bytes.load(as: UInt64.self) + 1, as: UInt64.self)
        #expect(SessionTable(memory.bytes, owner: memory) == nil)
        #expect(SessionTable(UnsafeMutableRawBufferPointer(rebasing: memory.bytes[..<4_096]), owner: memory) == nil)
    }

    @Test func `a table can be in memory of one process`() throws {
        let table = try #require(SessionTable(byteCount: 1 << 16))
        for number in 0..<20 { insert(number, into: table) }
        for number in 0..<20 { #expect(find(number, in: table) == session(number)) }
        #expect(SessionTable(byteCount: 0) == nil)
    }

    /// Whatever a process has left behind.
    @Test(arguments: 1...20) func `no bytes in the memory do any harm`(_ seed: Int) throws {
        let memory = Memory()
        var random = SeededGenerator(seed: UInt64(seed))
        for index in memory.bucket.indices {
            memory.bucket[index] = Bool.random(using: &random) ? 0 : UInt8.random(in: 0...255, using: &random)
        }
        memory.bucket.storeBytes(of: 0, as: UInt64.self)
        memory.bucket.storeBytes(of: UInt64.random(in: 0...5_000, using: &random), toByteOffset: 16, as: UInt64.self)
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
    /// Of the process that gives the keys of sessions.
    private let keys = TicketKeyRing(randomKey: ())
    private final class Events { var all: [SessionCache.Event] = [] }
    private let events = Events()

    init() throws { certificates = try TestCertificates.make() }

    /// That of a process.
    private func cache() throws -> SessionCache {
        let cache = SessionCache(try memory.table())
        cache.onEvent = { [events] in events.all.append($0) }
        return cache
    }

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
            server: server ?? self.server(), keySource: keys, session: session,
            sessions: cache(),
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
            sessions: cache())
        pair.handshake()
        #expect(pair.server.isEstablished && pair.client.session != nil)
        #expect(memory.isEmpty && events.all.isEmpty)
    }

    /// What nginx calls `ssl_session_tickets off`.
    @Test func `a service without tickets resumes all by IDs`() throws {
        let server = server { $0.sessions.tickets = false }
        func pair(_ session: ResumableSession?) throws -> EnginePair {
            let pair = try EnginePair(
                client: ClientSettings(certificateAuthorities: certificates.authority), server: server,
                keySource: keys, session: session, sessions: cache())
            pair.handshake()
            return pair
        }
        let session = try #require(pair(nil).client.session)
        #expect(try pair(session).server.engine?.isResumed == true)
        #expect(events.all == [.inserted(.stored(replaced: 0)), .hit])
    }

    @Test func `each lookup and each insertion is told`() throws {
        let session = try #require(pair().client.session)
        _ = try pair(session)
        #expect(events.all == [.inserted(.stored(replaced: 0)), .hit])
        // As if another one had taken its room.
        memory.bytes.initializeMemory(as: UInt8.self, repeating: 0)
        #expect(try pair(session).server.engine?.isResumed == false)
        #expect(events.all.suffix(2) == [.miss, .inserted(.stored(replaced: 0))])
    }

    /// The table tells sessions by the key alone, which is one of the ID's first half.
    @Test func `an ID whose end is another names no session`() throws {
        let session = try #require(pair().client.session)
        var count: UInt32 = 0
        let start = SSL_SESSION_get_id(session.pointer, &count)
        var id = Array(UnsafeBufferPointer(start: start, count: Int(count)))
        try #require(count == 32)
        id[31] ^= 1
        let isSet = SSL_SESSION_set1_id(session.pointer, id, 32) == 1
        try #require(isSet)
        let next = try pair(session)
        #expect(next.server.engine?.isResumed == false && events.all.contains(.miss))
    }

    @Test func `a session is of no use once its ticket key is gone`() throws {
        let session = try #require(pair().client.session)
        let former = keys.keys
        keys.keys = try [#require(TicketKey([UInt8](repeating: 3, count: 80)))]
        #expect(try pair(session).server.engine?.isResumed == false)
        keys.keys += former
        #expect(try pair(session).server.engine?.isResumed == true)
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
