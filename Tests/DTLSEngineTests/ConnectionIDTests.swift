import COpenSSL
import Primitives
import TestSupport
import Testing

@testable import DTLSEngine

/// Connection IDs (RFC 9146) between this client and this server: in handshakes and after them.
@Suite struct ConnectionIDTests {
    /// Both sides' connection IDs by their lengths; `nil` for a side that has none.
    struct Lengths: Sendable, CustomTestStringConvertible {
        var client: Int?
        var server: Int?
        var testDescription: String {
            "client \(client.map(String.init) ?? "none"), server \(server.map(String.init) ?? "none")"
        }

        static let agreeing = [
            Lengths(client: 0, server: 17), Lengths(client: 8, server: 0), Lengths(client: 0, server: 0),
            Lengths(client: 32, server: 32), Lengths(client: 1, server: 10),
        ]
        static let lone = [Lengths(client: 8, server: nil), Lengths(client: nil, server: 8)]
        static let usual = Lengths(client: 0, server: 17)
        static let both = Lengths(client: 9, server: 17)
    }

    static let certificates = SuiteCase(cipher: "ECDHE-RSA-AES128-GCM-SHA256")
    static let keys = SuiteCase(cipher: "PSK-AES128-CCM8")
    static let suites = SuiteCase.movable.map { SuiteCase(cipher: $0) }

    private static func id(_ count: Int?, _ first: UInt8) -> ConnectionID? {
        count.flatMap { ConnectionID((0..<$0).map { first &+ UInt8($0) }) }
    }

    static func makePair(
        _ suite: SuiteCase = certificates, _ lengths: Lengths = .usual, conditions: WireConditions = .perfect,
        seed: UInt64 = 1, payloadSize: Int = 1_452, session: ResumableSession? = nil
    ) throws -> EnginePair {
        try suite.makePair(
            conditions: conditions, seed: seed, payloadSize: payloadSize, session: session,
            clientID: id(lengths.client, 0xc0), serverID: id(lengths.server, 0x50))
    }

    static func establishedPair(
        _ suite: SuiteCase = certificates, _ lengths: Lengths = .usual, session: ResumableSession? = nil
    ) throws -> EnginePair {
        let pair = try makePair(suite, lengths, session: session)
        pair.handshake()
        try #require(pair.client.isEstablished && pair.server.isEstablished, "\(pair.client) \(pair.server)")
        return pair
    }

    /// Sends messages in both directions and expects them there, and expects that each protected record has the
    /// connection ID that it should have.
    private func expectExchange(
        _ pair: EnginePair, _ lengths: Lengths, sourceLocation: SourceLocation = #_sourceLocation
    )
        throws
    {
        let messages: [[UInt8]] = [[1, 2, 3], [], [UInt8](repeating: 7, count: 1_000)]
        let before = (pair.server.messages.count, pair.client.messages.count)
        for message in messages {
            try pair.send(message, from: .client)
            try pair.send(message, from: .server)
        }
        pair.run { $0.wire.nextArrival == nil }
        #expect(Array(pair.server.messages[before.0...]) == messages, sourceLocation: sourceLocation)
        #expect(Array(pair.client.messages[before.1...]) == messages, sourceLocation: sourceLocation)
        #expect(pair.client.error == nil && pair.server.error == nil, sourceLocation: sourceLocation)
        let isAgreed = lengths.client != nil && lengths.server != nil
        let ids = isAgreed ? (Self.id(lengths.client, 0xc0), Self.id(lengths.server, 0x50)) : (nil, nil)
        for (side, datagram) in pair.wire.sent {
            Self.expectIDs(side == .client ? ids.0 : ids.1, in: datagram, sourceLocation)
        }
        #expect(pair.client.engine?.connectionIDs?.own == ids.0, sourceLocation: sourceLocation)
        #expect(pair.client.engine?.connectionIDs?.peer == ids.1, sourceLocation: sourceLocation)
        #expect(pair.server.engine?.connectionIDs?.own == ids.1, sourceLocation: sourceLocation)
        #expect(pair.server.engine?.connectionIDs?.peer == ids.0, sourceLocation: sourceLocation)
        #expect(pair.client.engine?.checksReturnRoutability == isAgreed, sourceLocation: sourceLocation)
        #expect(pair.server.engine?.checksReturnRoutability == isAgreed, sourceLocation: sourceLocation)
    }

    private static func expectIDs(_ id: ConnectionID?, in datagram: [UInt8], _ sourceLocation: SourceLocation) {
        let id = id ?? .empty
        datagram.withUnsafeBytes { bytes in
            for record in Records(of: bytes, connectionIDLength: id.count) {
                #expect(record.isComplete, sourceLocation: sourceLocation)
                let hasID = record.isProtected && !id.isEmpty
                #expect((record.contentType == .connectionID) == hasID, sourceLocation: sourceLocation)
                #expect([UInt8](record.connectionID) == (hasID ? id.bytes : []), sourceLocation: sourceLocation)
            }
        }
    }

    // MARK: Handshakes

    @Test(arguments: suites, Lengths.agreeing)
    func `both sides put the other's connection ID into all protected records`(
        _ suite: SuiteCase, _ lengths: Lengths
    ) throws {
        try expectExchange(try Self.establishedPair(suite, lengths), lengths)
    }

    @Test(arguments: [certificates, keys], Lengths.lone)
    func `one side alone agrees on nothing`(_ suite: SuiteCase, _ lengths: Lengths) throws {
        let pair = try Self.establishedPair(suite, lengths)
        try expectExchange(pair, lengths)
        #expect(pair.client.engine?.details?.connectionIDs == nil)
    }

    @Test(arguments: suites, Lengths.agreeing)
    func `a resumed handshake agrees on connection IDs of its own`(_ suite: SuiteCase, _ lengths: Lengths) throws {
        let first = try Self.establishedPair(suite, .both)
        let session = try #require(first.client.session)
        first.letGo()
        let pair = try Self.establishedPair(suite, lengths, session: session)
        #expect(pair.client.engine?.isResumed == true && pair.server.engine?.isResumed == true)
        try expectExchange(pair, lengths)
    }

    @Test func `a session that was begun without connection IDs is resumed with them, and the other way round`() throws
    {
        var session: ResumableSession?
        for lengths in [Lengths.lone[0], .both, Lengths.lone[1], .usual] {
            let pair = try Self.establishedPair(Self.certificates, lengths, session: session)
            #expect(pair.server.engine?.isResumed == (session != nil))
            try expectExchange(pair, lengths)
            session = pair.client.session ?? session
            pair.letGo()
        }
    }

    @Test func `the details tell what was agreed on`() throws {
        let pair = try Self.establishedPair(Self.certificates, .both)
        for engine in [pair.client.engine, pair.server.engine] {
            let details = try #require(engine?.details)
            #expect(details.connectionIDs == engine?.connectionIDs && details.connectionIDs != nil)
            #expect(details.checksReturnRoutability)
        }
    }

    @Test(arguments: [certificates, keys])
    func `Finished may come in one datagram with what makes its keys known`(_ suite: SuiteCase) throws {
        let pair = try Self.makePair(suite, .both)
        pair.handshake()
        #expect(pair.client.isEstablished && pair.server.isEstablished)
        let isWhole = pair.wire.sent.contains { side, datagram in
            guard side == .server else { return false }
            return datagram.withUnsafeBytes { bytes in
                let types = Records(of: bytes, connectionIDLength: 17).map(\.contentType)
                return types.first == .handshake && types.suffix(2) == [.changeCipherSpec, .connectionID]
            }
        }
        #expect(isWhole)
    }

    /// Certificates in many small datagrams, of which the last ones have hardly any room for a connection ID.
    @Test(arguments: [208, 209, 220, 233, 241, 260, 548])
    func `a flight with connection IDs fits the path`(_ payloadSize: Int) throws {
        let lengths = Lengths(client: 32, server: 32)
        let first = try Self.makePair(Self.certificates, lengths, payloadSize: payloadSize)
        first.handshake()
        let session = try #require(first.client.session)
        #expect(first.wire.largest <= max(payloadSize, 548))
        let pair = try Self.makePair(Self.certificates, lengths, payloadSize: payloadSize, session: session)
        pair.handshake()
        #expect(pair.client.isEstablished && pair.server.isEstablished)
        for (side, datagram) in pair.wire.sent where side == .client { #expect(datagram.count <= payloadSize) }
    }

    // MARK: Loss

    @Test(arguments: [certificates, keys], 1...40 as ClosedRange<UInt64>)
    func `handshakes on a bad wire end with both sides agreeing`(_ suite: SuiteCase, _ seed: UInt64) throws {
        let conditions = WireConditions(loss: 20, duplication: 10, reordering: 30)
        var session: ResumableSession?
        for _ in 0..<2 {
            let pair = try Self.makePair(suite, .both, conditions: conditions, seed: seed, session: session)
            pair.handshake()
            if pair.hasGivenUp { return }
            try #require(pair.client.isEstablished && pair.server.isEstablished, "\(pair.client) \(pair.server)")
            pair.wire.conditions = .perfect
            pair.run { $0.wire.nextArrival == nil }
            try expectExchange(pair, .both)
            session = pair.client.session
            pair.letGo()
        }
    }

    @Test(arguments: [certificates, keys], 0..<8)
    func `each datagram of a handshake may be lost, come late or come twice`(_ suite: SuiteCase, _ lost: Int) throws {
        typealias Arrival = SimulatedWire.Arrival
        let fates: [([UInt8]) -> [Arrival]] = [
            { _ in [] }, { [Arrival($0, later: 500_000)] }, { [Arrival($0), Arrival($0, later: 30_000)] },
        ]
        for fate in fates {
            var session: ResumableSession?
            for isResumed in [false, true] {
                let pair = try Self.makePair(suite, .both, payloadSize: 600, session: session)
                pair.wire.interfere = { number, _, datagram in number == lost ? fate(datagram) : [Arrival(datagram)] }
                pair.handshake()
                try #require(pair.client.isEstablished && pair.server.isEstablished, "\(isResumed)")
                pair.run { $0.wire.nextArrival == nil }
                pair.wire.interfere = nil
                try expectExchange(pair, .both)
                session = pair.client.session
                pair.letGo()
            }
        }
    }

    @Test func `the last flight is sent again with connection IDs`() throws {
        let pair = try Self.makePair(Self.certificates, .both)
        var lost: [[UInt8]] = []
        pair.wire.interfere = { _, side, datagram in
            let isLast = datagram.withUnsafeBytes {
                Records(of: $0, connectionIDLength: 9).contains { $0.contentType == .connectionID }
            }
            guard side == .client, isLast, lost.count < 2 else { return [.init(datagram)] }
            lost.append(datagram)
            return []
        }
        pair.handshake()
        #expect(pair.client.isEstablished && lost.count == 2)
        let finished = lost.map { datagram in
            datagram.withUnsafeBytes { bytes in
                Records(of: bytes, connectionIDLength: 9).filter(\.isProtected).map { [UInt8]($0.bytes) }
            }
        }
        #expect(finished[0] == finished[1] && finished[0].count == 1)
        try expectExchange(pair, .both)
    }

    /// A forger does not know the keys, and a reordered Finished comes before they are there.
    @Test func `records that come before the keys are kept until these are there`() throws {
        let pair = try Self.makePair(Self.certificates, .both)
        pair.tamper = { datagram in
            let records = datagram.withUnsafeBytes { bytes in
                Records(of: bytes, connectionIDLength: 17).map { [UInt8]($0.bytes) }
            }
            // The flight in the opposite order, but for what OpenSSL has to have in order.
            guard records.count > 2, records.last?.first == ContentType.connectionID.rawValue else { return datagram }
            return Array((records.suffix(1) + records.dropLast()).joined())
        }
        pair.handshake()
        #expect(pair.client.isEstablished && pair.server.isEstablished && pair.elapsed < 1_000_000)
        try expectExchange(pair, .both)
    }

    @Test func `messages that overtake the last flight are read after it`() throws {
        for isBehind in [false, true] {
            let pair = try Self.makePair(Self.certificates, .both)
            var finished: [[UInt8]] = []
            pair.wire.interfere = { _, side, datagram in
                guard side == .client, datagram.last != nil,
                    datagram.withUnsafeBytes({
                        Records(of: $0, connectionIDLength: 9).contains { $0.isProtected }
                    })
                else { return [.init(datagram)] }
                finished.append(datagram)
                return []
            }
            pair.run { $0.server.isEstablished }
            try pair.send([4, 5, 6], from: .server)
            try #require(finished.count == 2 && !pair.client.isEstablished)
            pair.wire.interfere = nil
            if isBehind {
                pair.inject(finished[0] + finished[1], into: .client)
            } else {
                pair.inject(finished[1], into: .client)
                pair.inject(finished[0], into: .client)
            }
            #expect(pair.client.isEstablished && pair.client.messages == [[4, 5, 6]])
        }
    }

    // MARK: Records

    @Test(arguments: suites)
    func `a record of which one byte was changed is dropped, and so is what is behind it`(_ suite: SuiteCase) throws {
        let pair = try Self.establishedPair(suite, .both)
        let newest = try #require(pair.server.engine?.newestReceived)
        let good = try pair.record(.applicationData, [1, 2, 3], from: .client)
        for position in good.indices {
            var forged = good
            forged[position] ^= 1
            pair.inject(forged, into: .server)
            #expect(pair.server.messages.isEmpty && pair.server.engine?.newestReceived == newest, "byte \(position)")
        }
        #expect(pair.server.error == nil)
        pair.inject(good, into: .server)
        pair.inject(good, into: .server)
        #expect(pair.server.messages == [[1, 2, 3]])
        #expect(try #require(pair.server.engine?.newestReceived) > newest)
    }

    /// The same keys, number and content, but sealed for another connection ID, or for none.
    @Test(arguments: [0, 1, 16, 18, 32])
    func `a record with another connection ID is dropped, also where its seal is right`(_ length: Int) throws {
        let pair = try Self.establishedPair(Self.certificates, .both)
        let state = try #require(pair.client.engine?.recordState)
        // The count of the peer's connection ID, which is known to be there.
        let place = state.memory + 43
        #expect(place.load(as: UInt8.self) == 17)
        place.storeBytes(of: UInt8(length), as: UInt8.self)
        // The key schedule that is at hand is for records with a connection ID.
        pair.bio.contexts.releaseAll()
        let record = try pair.record(.applicationData, [1], from: .client)
        pair.inject(record, into: .server)
        #expect(pair.server.messages.isEmpty && pair.server.error == nil)
        place.storeBytes(of: 17, as: UInt8.self)
        pair.inject(try pair.record(.applicationData, [2], from: .client), into: .server)
        #expect(pair.server.messages == [[2]])
    }

    @Test func `padding is taken off, and a record of nothing but padding is dropped`() throws {
        let pair = try Self.establishedPair(Self.certificates, .both)
        let zero = ContentType(rawValue: 0)
        pair.inject(try pair.record(zero, [1, 0, 23, 0, 0], from: .client), into: .server)
        pair.inject(try pair.record(zero, [23] + [UInt8](repeating: 0, count: 300), from: .client), into: .server)
        let newest = try #require(pair.server.engine?.newestReceived)
        pair.inject(try pair.record(zero, [], from: .client), into: .server)
        pair.inject(try pair.record(zero, [0, 0], from: .client), into: .server)
        #expect(pair.server.messages == [[1, 0], []] && pair.server.error == nil)
        #expect(pair.server.engine?.newestReceived == newest + 2)
    }

    @Test func `the type within decides: alerts end the connection, and unknown types mean nothing`() throws {
        let pair = try Self.establishedPair(Self.certificates, .both)
        for type in [20, 24, 25, 26, 200] as [UInt8] {
            pair.inject(try pair.record(ContentType(rawValue: type), [1, 0], from: .client), into: .server)
        }
        #expect(pair.server.messages.isEmpty && pair.server.error == nil && !pair.server.isClosed)
        pair.close(.client)
        pair.run { $0.server.isClosed }
        #expect(pair.server.isClosed)
        #expect(pair.wire.sent.last?.datagram.first == ContentType.connectionID.rawValue)
    }

    @Test(arguments: suites)
    func `another engine goes on with connection IDs from the state alone`(_ suite: SuiteCase) throws {
        let pair = try Self.establishedPair(suite, .both)
        for side in [SimulatedWire.Side.client, .server] { try pair.move(side) }
        try expectExchange(pair, .both)
    }

    @Test(arguments: suites)
    func `the largest message for a payload fills it`(_ suite: SuiteCase) throws {
        let pair = try Self.establishedPair(suite, .both)
        let size = try #require(pair.client.engine?.largestMessage(inPayload: 1_000))
        try pair.send([UInt8](repeating: 1, count: size), from: .client)
        #expect(pair.wire.sent.last?.datagram.count == 1_000)
        pair.run { $0.wire.nextArrival == nil }
        #expect(pair.server.messages.last?.count == size)
    }

    @Test func `key schedules change hands between connections with and without connection IDs`() throws {
        for suite in Self.suites {
            let bio = try DatagramBIO(scheduleCapacity: 1)
            let with = try Self.establishedPair(suite, .both)
            let without = try Self.establishedPair(suite, Lengths.lone[0])
            var engines: [(Engine, Engine)] = []
            for pair in [with, without] {
                let states = [pair.client, pair.server].compactMap { $0.engine?.takeRecordState() }
                try #require(states.count == 2)
                engines.append((try Engine(resuming: states[0], over: bio), try Engine(resuming: states[1], over: bio)))
            }
            for round in 0..<6 {
                let (client, server) = engines[round % 2]
                let message = [UInt8](repeating: UInt8(round), count: 20)
                try message.withUnsafeBytes { try client.send($0) }
                let datagram = bio.outbox.withDatagrams { bytes, _ in [UInt8](bytes) }
                bio.outbox.removeAll()
                let received = try datagram.withUnsafeBytes { bytes -> [UInt8]? in
                    server.deliver(bytes)
                    guard case .message(let message) = try server.next(now: .distantPast) else { return nil }
                    return [UInt8](message)
                }
                #expect(received == message, "\(suite.cipher), round \(round)")
            }
        }
    }

    @Test func `a state says who has made a datagram, and whether it is the newest`() throws {
        let pair = try Self.establishedPair(Self.certificates, .both)
        let memory = try #require(pair.server.engine?.recordState).memory
        func judge(_ datagram: [UInt8]) -> RecordState.Authenticity {
            datagram.withUnsafeBytes { RecordState.authenticates($0, at: memory, over: pair.bio) }
        }
        let old = try pair.record(.applicationData, [1], from: .client)
        let new = try pair.record(.applicationData, [2], from: .client)
        #expect(judge(old) == .authentic(isNewest: true) && judge(new) == .authentic(isNewest: true))
        pair.inject(new, into: .server)
        #expect(judge(old) == .authentic(isNewest: false) && judge(new) == .no)
        #expect(judge(new + old) == .authentic(isNewest: false))
        for position in old.indices {
            var forged = old
            forged[position] ^= 0x80
            #expect(judge(forged) == .no, "byte \(position)")
        }
        #expect(RecordState.connectionIDs(at: memory) == pair.server.engine?.connectionIDs)
        #expect(RecordState.checksReturnRoutability(at: memory))
    }
}
