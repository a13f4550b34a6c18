import COpenSSL
import Primitives
import TestSupport
import Testing
import VirtualClock

@testable import DTLSEngine

/// Paths that take less than an engine was told, and do not say so.
@Suite struct PathSizeTests {
    let certificates: TestCertificates

    init() throws { certificates = try TestCertificates.make() }

    private func makePair(clientPayload: Int? = nil, payloadSize: Int = 1_372, ciphers: String? = nil) throws
        -> EnginePair
    {
        var client = ClientSettings(
            certificateAuthorities: certificates.authority, certificate: certificates.client.certificate,
            privateKey: certificates.client.privateKey)
        client.ciphers = ciphers
        var server = ServerSettings(
            certificate: certificates.rsaServer.certificate, privateKey: certificates.rsaServer.privateKey,
            certificateAuthorities: certificates.authority)
        server.ciphers = ciphers
        return try EnginePair(client: client, server: server, payloadSize: payloadSize)
    }

    /// Datagrams above the limit vanish. Both sides send smaller ones when a flight has got lost three times, and smaller ones
    /// still after that (RFC 6347, section 4.1.1.1).
    @Test(arguments: [(600, 548), (548, 548), (228, 228)])
    func `flights shrink until they fit`(_ path: (limit: Int, payloadSize: Int)) throws {
        let pair = try makePair()
        var vanished = 0
        pair.wire.interfere = { _, _, datagram in
            if datagram.count <= path.limit { return [.init(datagram)] }
            vanished += 1
            return []
        }
        pair.handshake()
        #expect(pair.client.isEstablished && pair.server.isEstablished)
        #expect(vanished > 0)
        #expect(pair.server.engine?.payloadSize == path.payloadSize)
        #expect(pair.server.engine?.discoveredPayloadSize == path.payloadSize)
        try pair.send([1], from: .client)
        pair.run()
        #expect(pair.server.messages == [[1]])
    }

    /// What gets lost in two seconds says nothing about the path.
    @Test(arguments: [SimulatedWire.Side.client, .server])
    func `losses that chance explains do not shrink flights`(_ side: SimulatedWire.Side) throws {
        let pair = try makePair()
        let limit = pair.elapsed + 2_000_000
        var lost = 0
        pair.wire.interfere = { [unowned pair] _, to, datagram in
            guard to == side, pair.elapsed < limit, datagram.count > 500 else { return [.init(datagram)] }
            lost += 1
            return []
        }
        pair.handshake()
        #expect(pair.client.isEstablished && pair.server.isEstablished)
        #expect(lost > 2 && pair.elapsed > 2_000_000)
        for engine in [pair.client.engine, pair.server.engine] {
            #expect(engine?.payloadSize == 1_372 && engine?.discoveredPayloadSize == nil)
        }
    }

    /// Flights are sent again while their answers are on the way.
    @Test func `answers that take five seconds do not shrink flights`() throws {
        let pair = try makePair()
        pair.wire.interfere = { _, _, datagram in [.init(datagram, later: 2_500_000)] }
        pair.handshake()
        #expect(pair.client.isEstablished && pair.server.isEstablished)
        #expect(pair.elapsed > 10_000_000)
        #expect(pair.server.engine?.payloadSize == 1_372 && pair.client.engine?.payloadSize == 1_372)
    }

    /// A peer that says nothing sleeps, is gone, or waits for the rest of a flight.
    @Test func `a flight to a peer of which nothing is heard shrinks after seven seconds`() throws {
        let pair = try makePair()
        pair.wire.interfere = { _, side, datagram in
            side == .client && datagram[0] == 22 && datagram[13] != 3 ? [] : [.init(datagram)]
        }
        pair.run { $0.server.engine != nil }
        let server = try #require(pair.server.engine)
        pair.wire.interfere = { _, _, _ in [] }
        let sent = pair.wire.sentCount
        let start = pair.elapsed
        pair.run { $0.elapsed - start > 7_000_000 }
        #expect(pair.wire.sentCount > sent)
        #expect(server.payloadSize == 1_372 && server.discoveredPayloadSize == nil)
        pair.run { $0.elapsed - start > 11_000_000 }
        #expect(server.payloadSize < 1_372 && server.discoveredPayloadSize == server.payloadSize)
    }

    /// RFC 6347, section 4.2.4.1: doubled each time, up to 60 seconds.
    @Test(arguments: [(1, [1, 3, 7, 15, 31, 63, 123, 183]), (9, [9, 27, 63, 123]), (60, [60, 120])])
    func `the timer begins as it is told and doubles up to a minute`(_ timer: (first: Int, sent: [Int])) throws {
        let pair = try makePair()
        let engine = try Engine(
            connecting: ClientContext(ClientSettings()), over: pair.bio, payloadSize: 1_372, serverName: nil)
        engine.setFirstTimeout(.seconds(timer.first))
        let start = at(1_000_000_000)
        var now = start
        guard case .needsInput = try engine.next(now: now) else {
            Issue.record("a client without an answer waits for one")
            return
        }
        var times: [Int] = []
        for _ in timer.sent {
            pair.bio.outbox.removeAll()
            now = engine.deadline
            try engine.handleTimeout(now: now)
            #expect(!pair.bio.outbox.isEmpty)
            times.append((now - start).seconds)
        }
        #expect(times == timer.sent)
        pair.bio.outbox.removeAll()
    }

    /// The last flight holds a session ticket with the client's certificate: it can be too large for the path too, and
    /// then it is the client that asks for it again.
    @Test func `the last flight shrinks too`() throws {
        let pair = try makePair()
        var isNarrow = false
        pair.wire.interfere = { _, side, datagram in
            // From the server's certificate on the path has become narrow.
            if side == .server, datagram[0] == 22, datagram[13] == 16 || datagram[13] == 11 { isNarrow = true }
            return isNarrow && side == .client && datagram.count > 300 ? [] : [.init(datagram)]
        }
        pair.handshake()
        #expect(pair.client.isEstablished && pair.server.isEstablished)
        #expect(pair.elapsed > 750_000)
    }

    /// A path that is known to be narrow from the beginning costs no timeout.
    @Test func `a path that is known costs no retransmission`() throws {
        let pair = try makePair()
        pair.wire.interfere = { [unowned pair] _, _, datagram in
            // A client's socket would have said so; the server learns it when it accepts.
            pair.server.engine?.limitPayload(to: 548)
            pair.client.engine?.limitPayload(to: 548)
            return [.init(datagram)]
        }
        pair.handshake()
        #expect(pair.elapsed < 1_000_000)
        #expect(pair.client.engine?.payloadSize == 548)
    }

    /// `largestMessage` is what just fits: one byte more does not, unless the cipher pads.
    @Test(arguments: [nil, "ECDHE-RSA-CHACHA20-POLY1305", "ECDHE-RSA-AES128-SHA256", "ECDHE-RSA-AES256-SHA384"])
    func `the largest message fills the path and a larger one does not fit`(_ ciphers: String?) throws {
        let pair = try makePair(ciphers: ciphers)
        pair.handshake()
        pair.run()
        let engine = try #require(pair.client.engine)
        for payload in [300, 548, 1_372, 9_000] {
            let largest = engine.largestMessage(inPayload: payload)
            #expect(largest > payload - 110)
            let before = pair.wire.sent.count
            try pair.send([UInt8](repeating: 1, count: largest), from: .client)
            try pair.send([UInt8](repeating: 1, count: largest + 1), from: .client)
            let sizes = pair.wire.sent[before...].map(\.datagram.count)
            #expect(sizes[0] <= payload)
            #expect(sizes[1] > payload)
        }
        #expect(engine.largestMessage(inPayload: 60_000) == Engine.maximumMessageSize)
        #expect(engine.payloadSize == 1_372)
    }

    // MARK: max_fragment_length

    /// What clients of little memory ask for (RFC 6066, section 4): 1 to 4 stand for 512 to 4,096 bytes.
    private func makePair(fragmentLength code: UInt8, session: ResumableSession? = nil) throws -> EnginePair {
        let pair = try EnginePair(
            client: ClientSettings(certificateAuthorities: certificates.authority),
            server: ServerSettings(
                certificate: certificates.rsaServer.certificate, privateKey: certificates.rsaServer.privateKey),
            ticketKeys: Array(repeating: 7, count: 80), session: session,
            prepareClient: { SSL_set_tlsext_max_fragment_length($0, code) })
        pair.handshake()
        try #require(pair.client.isEstablished && pair.server.isEstablished)
        pair.run()
        return pair
    }

    @Test(arguments: [(1, 512), (2, 1_024), (3, 2_048), (4, 4_096)] as [(UInt8, Int)])
    func `a message that the client has asked not to get is refused, and the connection goes on`(
        _ code: UInt8, _ limit: Int
    ) throws {
        let pair = try makePair(fragmentLength: code)
        for side in [SimulatedWire.Side.client, .server] {
            try pair.send(Array(repeating: 1, count: limit), from: side)
            #expect(throws: EngineError.fragment(limit + 1, limit: limit)) {
                try pair.send(Array(repeating: 2, count: limit + 1), from: side)
            }
            #expect(throws: EngineError.size(16_385)) { try pair.send(Array(repeating: 2, count: 16_385), from: side) }
            try pair.send([3], from: side)
        }
        pair.run()
        #expect(pair.client.messages.map(\.count) == [limit, 1])
        #expect(pair.server.messages.map(\.count) == [limit, 1])
        #expect(pair.server.engine?.largestMessage(inPayload: 60_000) == limit)
        #expect(pair.server.engine?.largestMessage(inPayload: 300) ?? 0 < 300)
    }

    @Test func `a resumed session keeps the record size that its client has asked for`() throws {
        let session = try #require(makePair(fragmentLength: 1).client.session)
        let pair = try makePair(fragmentLength: 1, session: session)
        #expect(pair.server.engine?.isResumed == true)
        #expect(pair.server.engine?.recordLimit == 512)
    }

    @Test func `without the extension messages have the size of a record`() throws {
        let pair = try makePair()
        pair.handshake()
        #expect(pair.server.engine?.recordLimit == Engine.maximumMessageSize)
        #expect(pair.client.engine?.recordLimit == Engine.maximumMessageSize)
    }

    /// If not, a clock that is set back stops the sending of lost flights.
    @Test func `the timers of the OpenSSL that is linked can be made to be due`() {
        #expect(OpenSSLConnection.controlsTimers)
    }

    // MARK: Hellos

    /// A session whose ticket has the client's certificate in it, as other servers with OpenSSL make it.
    private func makeSession() throws -> ResumableSession {
        let pair = try makePair(with: nil)
        SSL_CTX_set_session_ticket_cb(pair.serverContext.pointer, nil, nil, nil)
        pair.handshake()
        pair.run()
        return try #require(pair.client.session)
    }

    private func makePair(with session: ResumableSession?, payloadSize: Int = 1_372, loss: Int = 0) throws -> EnginePair
    {
        try EnginePair(
            client: ClientSettings(
                certificateAuthorities: certificates.authority, certificate: certificates.client.certificate,
                privateKey: certificates.client.privateKey),
            server: ServerSettings(
                certificate: certificates.rsaServer.certificate, privateKey: certificates.rsaServer.privateKey,
                certificateAuthorities: certificates.authority),
            payloadSize: payloadSize, conditions: WireConditions(loss: loss),
            ticketKeys: Array(repeating: 7, count: 80), session: session)
    }

    @Test func `a session is offered where the hello stays one datagram, and only there`() throws {
        let session = try makeSession()
        let small = try makePair(with: session, payloadSize: 600)
        #expect(small.wire.sentCount == 1)
        small.handshake()
        #expect(small.client.isEstablished && small.client.engine?.isResumed == false)
        let large = try makePair(with: session)
        #expect(large.wire.sentCount == 1)
        #expect(large.wire.largest > 600)
        large.handshake()
        #expect(large.client.isEstablished && large.client.engine?.isResumed == true)
    }

    /// A server need not put pieces together. So a hello is not cut below 548 bytes, and whole again after that.
    @Test func `an unanswered hello is sent in pieces once and then whole again`() throws {
        let pair = try makePair(with: try makeSession(), loss: 100)
        let whole = pair.wire.largest
        try #require(whole > 548 && whole < 1_232)
        var flights: [[Int]] = [[whole]]
        for _ in 0..<8 {
            let count = pair.wire.sentCount
            pair.run { $0.wire.sentCount > count }
            flights.append(pair.wire.sent.dropFirst(count).map(\.datagram.count))
        }
        // After 0.25, 0.75, 1.75, 3.75, 7.75, 15.75, 31.75 and 63.75 seconds.
        #expect(flights.map(\.count) == [1, 1, 1, 1, 1, 2, 1, 1, 2])
        for flight in flights where flight.count == 1 { #expect(flight == [whole]) }
        for flight in flights where flight.count == 2 { #expect(flight[0] > 500 && flight[0] <= 548) }
    }

    @Test func `a path's own limit holds for a hello that is whole again`() throws {
        let pair = try makePair(with: nil, payloadSize: 1_372, loss: 100)
        pair.client.engine?.limitPayload(to: 1_100)
        pair.run { $0.elapsed > 20_000_000 }
        #expect(pair.client.engine?.payloadSize == 1_100)
    }
}
