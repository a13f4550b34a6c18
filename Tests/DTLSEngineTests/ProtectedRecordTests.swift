import COpenSSL
import Primitives
import TestSupport
import Testing
import VirtualClock

@testable import DTLSEngine

/// A cipher suite, and who has its records in OpenSSL: a context that allows renegotiation keeps them there.
struct SuiteCase: Sendable, CustomTestStringConvertible {
    enum OpenSSLSide: Sendable { case none, client, server }

    let cipher: String
    var openSSL = OpenSSLSide.none

    var testDescription: String { "\(cipher), OpenSSL: \(openSSL)" }

    /// With certificates and with keys, every algorithm.
    static let movable = [
        "ECDHE-RSA-AES128-GCM-SHA256", "ECDHE-RSA-AES256-GCM-SHA384", "PSK-AES128-CCM", "PSK-AES256-CCM",
        "PSK-AES128-CCM8", "PSK-AES256-CCM8", "ECDHE-RSA-CHACHA20-POLY1305",
    ]

    static let all = movable.flatMap { cipher in
        [OpenSSLSide.none, .client, .server].map { SuiteCase(cipher: cipher, openSSL: $0) }
    }

    private static let key = PresharedKey(identity: Array("sensor".utf8), key: Array(repeating: 0xa5, count: 16))

    func makePair(
        conditions: WireConditions = .perfect, seed: UInt64 = 1, scheduleCapacity: Int = 512,
        payloadSize: Int = 1_452, session: ResumableSession? = nil, clientID: ConnectionID? = nil,
        serverID: ConnectionID? = nil, prepareClient: (OpaquePointer) -> Void = { _ in }
    ) throws -> EnginePair {
        let certificates = try TestCertificates.make()
        let isPSK = cipher.hasPrefix("PSK")
        let identity = certificates.rsaServer
        var server = ServerSettings(
            certifiedKeys: isPSK
                ? [] : [CertifiedKey(certificate: identity.certificate, privateKey: identity.privateKey)],
            ciphers: cipher, allowsRenegotiation: openSSL == .server)
        if isPSK { server.presharedKeys = PresharedKeys(keys: [Self.key], hint: nil) }
        return try EnginePair(
            client: ClientSettings(
                certificateAuthorities: certificates.authority, presharedKey: isPSK ? Self.key : nil, ciphers: cipher,
                allowsRenegotiation: openSSL == .client),
            server: server, payloadSize: payloadSize, conditions: conditions, seed: seed,
            ticketKeys: [UInt8](repeating: 7, count: ServerContext.ticketKeyLength), session: session,
            scheduleCapacity: scheduleCapacity, clientID: clientID, serverID: serverID, prepareClient: prepareClient)
    }

    func establishedPair(
        scheduleCapacity: Int = 512, prepareClient: (OpaquePointer) -> Void = { _ in }
    ) throws -> EnginePair {
        let pair = try makePair(scheduleCapacity: scheduleCapacity, prepareClient: prepareClient)
        pair.handshake()
        pair.run { $0.client.isEstablished && $0.server.isEstablished }
        try #require(pair.client.isEstablished && pair.server.isEstablished, "\(testDescription)")
        return pair
    }
}

/// Records that are sealed and opened without OpenSSL's record layer, against OpenSSL's and against each other.
@Suite struct ProtectedRecordTests {
    private static let common = SuiteCase(cipher: "ECDHE-RSA-AES128-GCM-SHA256")

    private func exchange(_ pair: EnginePair, _ messages: [[UInt8]], _ note: Comment) throws {
        let before = (pair.server.messages.count, pair.client.messages.count)
        for message in messages {
            try pair.send(message, from: .client)
            try pair.send(message, from: .server)
        }
        pair.run { $0.wire.nextArrival == nil }
        #expect(Array(pair.server.messages[before.0...]) == messages, note)
        #expect(Array(pair.client.messages[before.1...]) == messages, note)
        #expect(pair.client.error == nil && pair.server.error == nil, note)
    }

    private static let messages: [[UInt8]] = [[1], [2, 3], Array(repeating: 4, count: 1_000), [5]]

    // MARK: Suites

    @Test(arguments: SuiteCase.all)
    func `messages and ends go both ways, on whichever side OpenSSL has the records`(_ suite: SuiteCase) throws {
        for side in [SimulatedWire.Side.client, .server] {
            let pair = try suite.establishedPair()
            #expect(pair.client.engine?.isMovable == (suite.openSSL != .client))
            #expect(pair.server.engine?.isMovable == (suite.openSSL != .server))
            #expect(pair.client.engine?.details?.cipher == suite.cipher)
            try exchange(pair, Self.messages + [Array(repeating: 6, count: 16_384)], "\(suite)")
            pair.close(side)
            pair.run()
            let (one, other) = side == .client ? (pair.client, pair.server) : (pair.server, pair.client)
            #expect(other.isClosed && other.error == nil)
            #expect(one.error == nil)
            #expect(throws: EngineError.notEstablished) { try pair.send([1], from: side) }
        }
    }

    @Test(arguments: SuiteCase.movable)
    func `empty messages are messages each, several in a datagram too`(_ cipher: String) throws {
        let pair = try SuiteCase(cipher: cipher).establishedPair()
        try exchange(pair, [[], [1], [], []], "\(cipher)")
        pair.wire.interfere = { _, _, _ in [] }
        for message in [[], [1], [], []] as [[UInt8]] { try pair.send(message, from: .client) }
        let datagram = pair.wire.sent.suffix(4).flatMap(\.datagram)
        pair.inject(datagram, into: .server)
        #expect(pair.server.messages.suffix(4) == [[], [1], [], []])
        let count = pair.server.messages.count
        pair.inject(datagram, into: .server)
        #expect(pair.server.messages.count == count)
    }

    @Test(arguments: [
        ("ECDHE-RSA-AES128-SHA256", ProtocolVersion.dtls12), ("ECDHE-RSA-AES128-SHA:@SECLEVEL=0", .dtls10),
    ])
    func `the records of AES-CBC stay with OpenSSL`(_ cipher: String, _ version: ProtocolVersion) throws {
        let certificates = try TestCertificates.make()
        let pair = try EnginePair(
            client: ClientSettings(
                certificateAuthorities: certificates.authority, ciphers: cipher, minimumVersion: version,
                maximumVersion: version),
            server: ServerSettings(
                certificate: certificates.rsaServer.certificate, privateKey: certificates.rsaServer.privateKey,
                ciphers: cipher, minimumVersion: version))
        pair.handshake()
        try exchange(pair, Self.messages, "\(cipher)")
        #expect(pair.client.engine?.isMovable == false && pair.server.engine?.isMovable == false)
        #expect(pair.server.engine?.takeRecordState() == nil)
    }

    /// One place for both sides of a connection, so that each record needs new key schedules.
    @Test(arguments: SuiteCase.movable)
    func `connections share few key schedules`(_ cipher: String) throws {
        let pair = try SuiteCase(cipher: cipher).establishedPair(scheduleCapacity: 1)
        try exchange(pair, Self.messages + Self.messages, "\(cipher)")
        #expect(pair.bio.contexts.connectionCount == 1)
        let other = try SuiteCase(cipher: cipher).establishedPair()
        try exchange(other, Self.messages, "\(cipher)")
        #expect(other.bio.contexts.connectionCount == 2)
        other.letGo()
        #expect(other.bio.contexts.connectionCount == 0)
    }

    // MARK: Early records

    /// The server's first messages overtake its Finished, or are behind it in one datagram.
    @Test(arguments: [
        SuiteCase(cipher: "ECDHE-RSA-AES128-GCM-SHA256"), SuiteCase(cipher: "ECDHE-RSA-CHACHA20-POLY1305"),
        SuiteCase(cipher: "ECDHE-RSA-AES128-SHA256"), SuiteCase(cipher: "PSK-AES128-CCM8", openSSL: .client),
    ])
    func `records that come before the handshake is done are read after it`(_ suite: SuiteCase) throws {
        for isBehind in [false, true] {
            let pair = try suite.makePair()
            var finished: [[UInt8]] = []
            pair.wire.interfere = { _, side, datagram in
                let holdsFinished = datagram.withUnsafeBytes {
                    Records(of: $0).contains { $0.isProtected }
                }
                guard side == .client, holdsFinished else { return [.init(datagram)] }
                finished.append(datagram)
                return []
            }
            pair.run { $0.server.isEstablished }
            try #require(finished.count >= 1)
            let count = finished.count
            for message in Self.messages.prefix(3) { try pair.send(message, from: .server) }
            let early = finished[count...].flatMap { $0 }
            #expect(!pair.client.isEstablished)
            if isBehind {
                pair.inject(finished[..<count].flatMap { $0 } + early, into: .client)
            } else {
                for datagram in finished[count...] { pair.inject(datagram, into: .client) }
                #expect(pair.client.messages.isEmpty)
                for datagram in finished[..<count] { pair.inject(datagram, into: .client) }
            }
            #expect(pair.client.isEstablished)
            #expect(pair.client.messages == Array(Self.messages.prefix(3)), "\(suite), behind: \(isBehind)")
            // None of them is taken twice.
            pair.inject(early, into: .client)
            #expect(pair.client.messages.count == 3)
            pair.wire.interfere = nil
            try exchange(pair, [[9]], "\(suite)")
        }
    }

    @Test func `forged records of a handshake are not taken after it`() throws {
        let pair = try Self.common.makePair()
        pair.run { $0.server.engine != nil }
        for number in 0..<40 as Range<UInt8> {
            pair.inject(
                [23, 0xfe, 0xfd, 0, 1, 0, 0, 0, 0, 0, number, 0, 40] + [UInt8](repeating: 1, count: 40),
                into: .server)
        }
        pair.handshake()
        try exchange(pair, Self.messages, "after forgeries")
        #expect(pair.server.messages == Self.messages)
    }

    // MARK: Moving

    @Test(arguments: SuiteCase.movable)
    func `another engine goes on from the state alone`(_ cipher: String) throws {
        let pair = try SuiteCase(cipher: cipher).establishedPair()
        try exchange(pair, Self.messages, "before")
        let former = pair.wire.sent
        for side in [SimulatedWire.Side.server, .client, .server] {
            try pair.move(side)
            try exchange(pair, Self.messages, "\(cipher), moved the \(side)")
        }
        let counts = (pair.client.messages.count, pair.server.messages.count)
        for (side, datagram) in former { pair.inject(datagram, into: side) }
        #expect(pair.client.messages.count == counts.0 && pair.server.messages.count == counts.1)
        #expect(pair.client.engine?.recordLimit == 16_384)
        #expect(pair.client.engine?.largestMessage(inPayload: 1_000) ?? 0 > 960)
        pair.close(.client)
        pair.run()
        #expect(pair.server.isClosed)
    }

    /// The engine is gone without a word, as with a process that was killed; its memory is not.
    @Test func `what is in other memory outlives the engine`() throws {
        let pair = try Self.common.establishedPair()
        let memory = UnsafeMutableRawPointer.allocate(byteCount: RecordState.byteCount, alignment: 8)
        defer { memory.deallocate() }
        pair.server.engine?.moveRecordState(to: memory)
        try exchange(pair, Self.messages, "in other memory")
        let numbers = Set(pair.wire.sent.map { $0.datagram[..<11] })
        pair.replaceEngine(of: .server, by: nil)
        let engine = try Engine(resuming: memory, over: pair.bio)
        pair.replaceEngine(of: .server, by: engine)
        let count = pair.server.messages.count
        for (side, datagram) in pair.wire.sent where side == .server { pair.inject(datagram, into: .server) }
        #expect(pair.server.messages.count == count)
        let sent = pair.wire.sentCount
        try exchange(pair, Self.messages, "resumed")
        for (_, datagram) in pair.wire.sent[sent...] { #expect(!numbers.contains(datagram[..<11])) }
    }

    @Test func `a state's memory is authenticated without an engine and without a mark`() throws {
        let pair = try Self.common.establishedPair()
        let memory = UnsafeMutableRawPointer.allocate(byteCount: RecordState.byteCount, alignment: 8)
        defer { memory.deallocate() }
        pair.server.engine?.moveRecordState(to: memory)
        try exchange(pair, [[1]], "before")
        pair.wire.interfere = { _, _, _ in [] }
        let old = try #require(pair.wire.sent.last { $0.side == .server }).datagram
        try pair.send([1, 2, 3], from: .client)
        let new = try #require(pair.wire.sent.last).datagram
        func authenticates(_ datagram: [UInt8]) -> Bool {
            datagram.withUnsafeBytes { RecordState.authenticates($0, at: memory, over: pair.bio) != .no }
        }
        let before = pair.server.engine?.recordState.map { ($0.newestNumber, $0.nextNumber) }
        let schedules = pair.bio.contexts.connectionCount
        #expect(authenticates(new) && authenticates(new))
        #expect(authenticates(old + new))
        #expect(!authenticates(old))
        #expect(!authenticates([]) && !authenticates([UInt8](new.dropLast())))
        for position in [0, 2, 4, 10, 12, 13, 25, new.count - 1] {
            var forged = new
            forged[position] ^= 1
            #expect(!authenticates(forged), "byte \(position)")
            // One that says it is of another epoch is not even tried.
            #expect(authenticates(forged + new) == (position == 4), "byte \(position)")
        }
        #expect(pair.server.engine?.recordState?.newestNumber == before?.0)
        #expect(pair.server.engine?.recordState?.nextNumber == before?.1)
        #expect(pair.bio.contexts.connectionCount == schedules)
        pair.inject(new, into: .server)
        #expect(pair.server.messages.last == [1, 2, 3])
        #expect(!authenticates(new))
        memory.initializeMemory(as: UInt8.self, repeating: 0, count: RecordState.byteCount)
        #expect(!authenticates(new))
    }

    // MARK: Alerts and handshake messages

    @Test(arguments: [SimulatedWire.Side.client, .server])
    func `a fatal alert ends the connection with its name`(_ side: SimulatedWire.Side) throws {
        let pair = try Self.common.establishedPair()
        let other: SimulatedWire.Side = side == .client ? .server : .client
        pair.inject(try pair.record(.alert, [2, 80], from: other), into: side)
        let error = side == .client ? pair.client.error : pair.server.error
        #expect(error == .alert(80))
        #expect(error?.description == "the peer has ended the connection with the fatal alert \"internal error\"")
        #expect(throws: EngineError.notEstablished) { try pair.send([1], from: side) }
    }

    @Test func `warnings and what means nothing are ignored`() throws {
        let pair = try Self.common.establishedPair()
        let sent = pair.wire.sentCount
        for (type, content) in [
            (.alert, [1, 90]), (.alert, [1, 100]), (.alert, [1]), (.alert, [2, 80, 0]), (.alert, []), (.alert, [7, 7]),
            (.changeCipherSpec, [1]), (.heartbeat, [1, 0, 0]), (ContentType(rawValue: 99), [1]), (.handshake, [1, 2]),
            (.handshake, [11, 0, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0]), (.handshake, []),
        ] as [(ContentType, [UInt8])] {
            for side in [SimulatedWire.Side.client, .server] {
                let other: SimulatedWire.Side = side == .client ? .server : .client
                pair.inject(try pair.record(type, content, from: other), into: side)
            }
        }
        #expect(pair.wire.sentCount == sent)
        try exchange(pair, Self.messages, "after them")
    }

    private static let message: [UInt8] = [0, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0]

    @Test func `another handshake is refused with no_renegotiation`() throws {
        let pair = try Self.common.establishedPair()
        for (side, type, isAnswered) in [
            (.server, 1, true), (.client, 0, true), (.server, 0, false), (.client, 1, false),
        ] as [(SimulatedWire.Side, UInt8, Bool)] {
            let other: SimulatedWire.Side = side == .client ? .server : .client
            let sent = pair.wire.sentCount
            pair.inject(try pair.record(.handshake, [type] + Self.message, from: other), into: side)
            #expect(pair.wire.sentCount == sent + (isAnswered ? 1 : 0))
        }
        try exchange(pair, Self.messages, "after them")
    }

    /// OpenSSL's own client asks for it, and is told.
    @Test func `a renegotiation that OpenSSL begins is refused and the server goes on`() throws {
        let pair = try SuiteCase(cipher: Self.common.cipher, openSSL: .client).establishedPair()
        pair.renegotiate()
        pair.run { $0.client.error != nil }
        #expect("\(try #require(pair.client.error))".contains("no renegotiation"))
        #expect(pair.server.error == nil && !pair.server.isClosed)
        try pair.send([1], from: .server)
    }

    @Test func `a record that is too long is answered with record_overflow`() throws {
        let pair = try Self.common.establishedPair(prepareClient: { SSL_set_tlsext_max_fragment_length($0, 1) })
        #expect(pair.server.engine?.recordLimit == 512)
        let good = try pair.record(.applicationData, [UInt8](repeating: 1, count: 512), from: .client)
        pair.inject(good, into: .server)
        #expect(pair.server.messages.map(\.count) == [512])
        pair.inject(
            try pair.record(.applicationData, [UInt8](repeating: 1, count: 513), from: .client), into: .server)
        #expect(pair.server.error == .overflow(limit: 512))
        pair.run { $0.client.error != nil }
        #expect(pair.client.error == .alert(UInt8(SSL_AD_RECORD_OVERFLOW)))
    }

    /// A state that a program has kept can have any bytes: with these the explicit nonce of AES-GCM is the greatest.
    @Test func `the last number has a nonce, whatever its prefix is`() throws {
        let pair = try Self.common.establishedPair()
        let state = try #require(pair.client.engine?.recordState)
        #expect(state.algorithm?.mode == .gcm)
        let prefixOffset = 40
        state.memory.storeBytes(of: UInt16.max, toByteOffset: prefixOffset, as: UInt16.self)
        #expect(state.nonce(Record.sequenceNumberMask) == .max)
        state.nextNumber = (RecordState.firstNumber | Record.sequenceNumberMask) - 1
        try pair.send([7], from: .client)
        #expect(throws: EngineError.exhausted) { try pair.send([8], from: .client) }
        pair.run()
        #expect(pair.server.messages.last == [7] && pair.server.isClosed)
    }

    @Test func `a connection ends before a number repeats`() throws {
        let pair = try Self.common.establishedPair()
        try exchange(pair, Self.messages, "before")
        let last = RecordState.firstNumber | Record.sequenceNumberMask
        pair.client.engine?.recordState?.nextNumber = last - 1
        try pair.send([7], from: .client)
        #expect(throws: EngineError.exhausted) { try pair.send([8], from: .client) }
        #expect(throws: EngineError.notEstablished) { try pair.send([9], from: .client) }
        pair.run()
        #expect(pair.server.messages.last == [7])
        #expect(pair.server.isClosed && pair.server.error == nil)
        let numbers = pair.wire.sent.suffix(3).filter { $0.side == .server }.map { Array($0.datagram[3..<11]) }
        #expect(numbers == [[0, 1, 255, 255, 255, 255, 255, 254], [0, 1, 255, 255, 255, 255, 255, 255]])
    }

    // MARK: The last flight

    private func isLastFlight(_ datagram: [UInt8]) -> Bool {
        datagram.withUnsafeBytes { Records(of: $0).contains { $0.contentType == .handshake && $0.isProtected } }
    }

    @Test func `the last flight is sent again for a new Finished and not for a replay`() throws {
        let pair = try Self.common.makePair()
        var requests: [[UInt8]] = []
        var flights = 0
        pair.wire.interfere = { _, side, datagram in
            guard isLastFlight(datagram) else { return [.init(datagram)] }
            if side == .server {
                requests.append(datagram)
                return [.init(datagram)]
            }
            flights += 1
            return []
        }
        pair.run { _ in flights == 3 }
        try #require(requests.count == 3)
        for request in requests { pair.inject(request, into: .server) }
        var forged = requests[2]
        forged[forged.count - 1] ^= 1
        forged[forged.count - 50] ^= 1
        pair.inject(forged, into: .server)
        #expect(flights == 3)
        // It says so, since a replay may be all that the peer has to ask with.
        #expect(pair.server.repetitions == 3)
        let engine = try #require(pair.server.engine)
        #expect(!forged.withUnsafeBytes { engine.holdsRepeatedFinished($0) })
        #expect(requests.allSatisfy { $0.withUnsafeBytes { engine.holdsRepeatedFinished($0) } })
        engine.sendLastFlight()
        pair.flush(.server)
        #expect(flights == 4)
        pair.wire.interfere = nil
        pair.handshake()
        try exchange(pair, Self.messages, "at last")
        // The peer has it, and nobody asks any more.
        pair.inject(requests[0], into: .server)
        #expect(pair.server.repetitions == 3 && !requests[0].withUnsafeBytes { engine.holdsRepeatedFinished($0) })
        #expect(pair.server.engine?.deadline == .distantFuture)
    }

    @Test func `the last flight is given up when nobody asks for it`() throws {
        let pair = try Self.common.establishedPair()
        let engine = try #require(pair.server.engine)
        let deadline = engine.deadline
        #expect(deadline != .distantFuture)
        #expect(pair.client.engine?.deadline == .distantFuture)
        try engine.handleTimeout(now: deadline)
        #expect(engine.deadline == .distantFuture)
        let finished = try pair.record(.handshake, [20] + Self.message, from: .client)
        let sent = pair.wire.sentCount
        pair.inject(finished, into: .server)
        #expect(pair.wire.sentCount == sent)
        try exchange(pair, Self.messages, "after it")
    }

    // MARK: Losses

    @Test(arguments: 1...10 as ClosedRange<UInt64>)
    func `every message arrives once on a wire that copies and reorders`(_ seed: UInt64) throws {
        let pair = try Self.common.makePair(conditions: WireConditions(duplication: 50, reordering: 50), seed: seed)
        pair.handshake()
        pair.run { $0.wire.nextArrival == nil }
        let messages = (0..<60 as Range<UInt8>).map { [$0] }
        for (number, message) in messages.enumerated() {
            if number % 20 == 10 { try pair.move(number % 40 == 10 ? .server : .client) }
            try pair.send(message, from: .client)
            try pair.send(message, from: .server)
        }
        pair.run { $0.wire.nextArrival == nil }
        #expect(pair.server.messages.map { $0[0] }.sorted() == messages.map { $0[0] })
        #expect(pair.client.messages.map { $0[0] }.sorted() == messages.map { $0[0] })
    }
}
