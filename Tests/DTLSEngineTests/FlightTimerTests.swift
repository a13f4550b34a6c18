import Primitives
import TestSupport
import Testing

@testable import DTLSEngine

/// When flights of a handshake are sent again, over wires of 40 ms there and back.
@Suite struct FlightTimerTests {
    let certificates: TestCertificates

    init() throws { certificates = try TestCertificates.make() }

    private func makePair(
        loss: Int = 0, seed: UInt64 = 1, clientTimeout: Duration? = nil, serverTimeout: Duration? = nil
    ) throws -> EnginePair {
        try EnginePair(
            client: ClientSettings(certificateAuthorities: certificates.authority),
            server: ServerSettings(
                certificate: certificates.rsaServer.certificate, privateKey: certificates.rsaServer.privateKey),
            conditions: WireConditions(loss: loss), seed: seed, clientTimeout: clientTimeout,
            serverTimeout: serverTimeout)
    }

    /// A client that says its hello with the cookie again has not got the answer.
    private static func isHelloWithCookie(_ datagram: [UInt8]) -> Bool {
        datagram[0] == 22 && datagram[13] == 1 && datagram[18] == 1
    }

    private static func isServerHello(_ datagram: [UInt8]) -> Bool { datagram[0] == 22 && datagram[13] == 2 }

    @Test func `a flight waits for three round trips within bounds`() {
        func timeout(_ roundTrip: Duration?, _ side: FlightTiming.Side = .client) -> Duration {
            FlightTiming.measured(roundTrip, on: side).firstTimeout
        }
        #expect(timeout(nil) == .seconds(1))
        #expect(timeout(.zero) == .milliseconds(250))
        #expect(timeout(.milliseconds(83)) == .milliseconds(250))
        #expect(timeout(.milliseconds(200)) == .milliseconds(600))
        #expect(timeout(.seconds(2)) == .seconds(1))
        #expect(timeout(.zero, .server) == .milliseconds(375))
        #expect(timeout(.milliseconds(200), .server) == .milliseconds(600))
    }

    @Test func `a repetition says something about a flight that was sent a round trip ago`() {
        func pause(_ roundTrip: Duration?) -> Duration { FlightTiming.measured(roundTrip, on: .server).shortestPause }
        #expect(pause(nil) == .milliseconds(100))
        #expect(pause(.milliseconds(3)) == .milliseconds(100))
        #expect(pause(.milliseconds(300)) == .milliseconds(300))
        // A client that lets a cookie lie around is not slow for that.
        #expect(pause(.seconds(90)) == .seconds(1))
        #expect(
            FlightTiming.set(to: .seconds(9)) == FlightTiming(firstTimeout: .seconds(9), shortestPause: .seconds(9)))
    }

    // MARK: A client's measurement

    private func roundTrip(_ sendings: [(records: Int, at: Int)], answering number: UInt8?, at end: Int) -> Duration? {
        let start = Instant(nanoseconds: 1_000_000_000)
        var measurement = RoundTripMeasurement()
        for sending in sendings {
            measurement.noteHello(records: sending.records, now: start + .milliseconds(sending.at))
        }
        if let number {
            // RFC 5246, section 7.4: hello_verify_request(3).
            let record: [UInt8] = [22, 0xfe, 0xff, 0, 0, 0, 0, 0, 0, 0, number, 0, 1, 3]
            record.withUnsafeBytes { if let record = Record(of: $0) { measurement.noteArrival(of: record) } }
        }
        return measurement.roundTrip(now: start + .milliseconds(end))
    }

    @Test func `a request for a cookie tells which hello it answers`() {
        #expect(roundTrip([], answering: 0, at: 0) == nil)
        #expect(roundTrip([(1, 0)], answering: 0, at: 40) == .milliseconds(40))
        let twice = [(records: 1, at: 0), (records: 1, at: 250)]
        #expect(roundTrip(twice, answering: 1, at: 290) == .milliseconds(40))
        #expect(roundTrip(twice, answering: 0, at: 290) == .milliseconds(290))
        // Some answer has come, or one to a hello that was never sent: no less than the round trip.
        #expect(roundTrip(twice, answering: nil, at: 290) == .milliseconds(290))
        #expect(roundTrip(twice, answering: 200, at: 290) == .milliseconds(290))
        let pieces = [(records: 2, at: 0), (records: 3, at: 250), (records: 1, at: 750)]
        #expect(roundTrip(pieces, answering: 1, at: 800) == .milliseconds(800))
        #expect(roundTrip(pieces, answering: 2, at: 800) == .milliseconds(550))
        #expect(roundTrip(pieces, answering: 5, at: 800) == .milliseconds(50))
    }

    // MARK: What losses say about sizes

    @Test func `a flight is too large where loss does not explain that it was lost`() {
        var evidence = SizeEvidence()
        func speaks(_ count: UInt8, lostFor losses: Double, _ silence: Double) -> Bool {
            evidence.speaksAgainstSize(
                retransmissions: count, lostFor: .milliseconds(Int64(losses * 1_000)),
                silence: .milliseconds(Int64(silence * 1_000)))
        }
        // Nothing is heard.
        #expect(!speaks(3, lostFor: 3, 7))
        #expect(!speaks(4, lostFor: 1.75, 3.75))
        #expect(speaks(4, lostFor: 7, 15))
        #expect(speaks(5, lostFor: 3.75, 7.75))
        evidence.hasHeardPeer = true
        #expect(!speaks(2, lostFor: 9, 27))
        // Four losses in 1.75 seconds may be one gap.
        #expect(!speaks(4, lostFor: 1.75, 3.75))
        #expect(speaks(5, lostFor: 3.75, 7.75))
        #expect(speaks(3, lostFor: 3, 7))
        evidence.hasShrunk = true
        #expect(speaks(1, lostFor: 0, 0.25))
        // The answer has begun to come.
        evidence.hasArrived = true
        #expect(!speaks(5, lostFor: 3.75, 7.75))
        evidence.begin(largest: 1_000)
        #expect(!evidence.hasArrived && !evidence.hasHeardPeer)
    }

    @Test(
        arguments: [
            (0.25, [5, 8, 11]), (1, [3, 6, 9, 12]), (9, [3, 6, 9, 12]),
        ] as [(Double, [UInt8])])
    func `a hello is sent in pieces every third time after seven seconds`(_ first: Double, _ expected: [UInt8]) {
        var evidence = SizeEvidence()
        var (elapsed, timeout) = (0.0, first)
        var pieces: [UInt8] = []
        for count in 1...12 as ClosedRange<UInt8> {
            elapsed += timeout
            timeout = min(timeout * 2, 60)
            if evidence.sendsHelloInPieces(retransmissions: count, after: .milliseconds(Int64(elapsed * 1_000))) {
                pieces.append(count)
            }
        }
        #expect(pieces == expected)
    }

    // MARK: Alerts without protection

    /// A fatal handshake_failure, and what it is worth at these points in time, in milliseconds.
    private func alert(timeoutsAt times: [Int64], refusedAfter refused: Int? = nil) throws -> [Bool] {
        let record: [UInt8] = [21, 0xfe, 0xfd, 0, 0, 0, 0, 0, 0, 0, 1, 0, 2, 2, 40]
        var alert = try #require(record.withUnsafeBytes { Record(of: $0).flatMap { PlaintextAlert($0) } })
        if refused == 0 { alert.peerWasRefused() }
        return times.enumerated().map { index, time in
            let isBelieved = alert.timeoutPassed(now: Instant(nanoseconds: 1_000_000_000) + .milliseconds(time))
            if index + 1 == refused { alert.peerWasRefused() }
            return isBelieved
        }
    }

    @Test func `an alert is believed after a timeout and two seconds of silence`() throws {
        #expect(try alert(timeoutsAt: [1_000, 3_000]) == [false, true])
        #expect(try alert(timeoutsAt: [250, 750, 1_750, 3_750]) == [false, false, false, true])
    }

    @Test func `an alert of a peer that is gone is believed after the next timeout`() throws {
        #expect(try alert(timeoutsAt: [250, 750, 1_750], refusedAfter: 1) == [false, true, true])
        // Before the flight was sent again, it may be the answer to something else.
        #expect(try alert(timeoutsAt: [250, 750, 1_750], refusedAfter: 0) == [false, false, false])
    }

    // MARK: Handshakes

    /// The times of the first 1.4 s, in milliseconds after the first, at which a server's flight is sent, none of which arrives.
    private func flights(repeatingHelloAt delays: [Int64], serverTimeout: Duration? = nil) throws -> [Int64] {
        let pair = try makePair(clientTimeout: .seconds(50), serverTimeout: serverTimeout)
        var times: [Int64] = []
        pair.wire.interfere = { [unowned pair] _, side, datagram in
            if side == .client, Self.isServerHello(datagram) { times.append(pair.elapsed / 1_000) }
            if side == .client, !times.isEmpty { return [] }
            guard side == .server, Self.isHelloWithCookie(datagram) else { return [.init(datagram)] }
            return [SimulatedWire.Arrival(datagram)]
                + delays.map { SimulatedWire.Arrival(datagram, later: $0 * 1_000) }
        }
        pair.run { $0.elapsed > 1_500_000 }
        let first = try #require(times.first)
        return times.map { $0 - first }.filter { $0 < 1_400 }
    }

    @Test func `the server's timer doubles`() throws {
        #expect(try flights(repeatingHelloAt: []) == [0, 375, 1_125])
    }

    @Test func `a repeated hello is answered at once, but not within a tenth of a second`() throws {
        #expect(try flights(repeatingHelloAt: [50, 120, 130, 180]) == [0, 120, 375, 1_125])
        #expect(try flights(repeatingHelloAt: [340]) == [0, 340, 440, 1_190])
    }

    /// Where the operator has set the timer, copies are paid for.
    @Test func `a repeated hello is not answered before a timer that was set`() throws {
        let times = try flights(repeatingHelloAt: [120, 400, 900], serverTimeout: .seconds(1))
        #expect(times == [0, 1_000])
    }

    @Test func `repeated hellos do not use up the tries of a handshake`() throws {
        let times = try flights(repeatingHelloAt: Array(stride(from: 101, to: 3_000, by: 101)))
        #expect(times.count <= 7)
    }

    /// Milliseconds that handshakes take, in order.
    private func durations(loss: Int, clientTimeout: Duration?) throws -> [Int64] {
        try (1...400).map { seed in
            let pair = try makePair(loss: loss, seed: UInt64(seed), clientTimeout: clientTimeout)
            pair.handshake()
            #expect(pair.client.isEstablished && pair.server.isEstablished, "seed \(seed)")
            return pair.elapsed / 1_000
        }.sorted()
    }

    @Test func `of a hundred handshakes, one takes longer than a second where a twentieth is lost each way`() throws {
        let durations = try durations(loss: 5, clientTimeout: nil)
        #expect(durations[durations.count * 99 / 100] <= 1_000)
        #expect(durations[durations.count / 2] < 250)
    }

    /// OpenSSL's timers are 1, 2 and 4 s.
    @Test func `a client with timers of seconds waits for its own ones at most`() throws {
        let durations = try durations(loss: 5, clientTimeout: .seconds(1))
        #expect(durations[durations.count * 99 / 100] <= 3_200)
    }
}
