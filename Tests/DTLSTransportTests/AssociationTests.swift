import DTLSEngine
import LinuxSystem
import Primitives
import TestSupport
import Testing
import VirtualClock

@testable import DTLSTransport

/// Associations and the endpoint in front of them, over a simulated wire in virtual time.
@Suite struct AssociationTests {
    private let limits = Connection.Limits(handshakeTimeout: .seconds(60), idleTimeout: .seconds(300))
    /// For wires that lose much: a flight of three datagrams can take many tries, the last of which are a minute apart.
    private let patientLimits = Connection.Limits(handshakeTimeout: .seconds(600))

    struct Case: Sendable, CustomTestStringConvertible {
        let conditions: WireConditions
        let seeds: ClosedRange<UInt64>
        var testDescription: String {
            "loss \(conditions.loss) %, duplication \(conditions.duplication) %, reordering \(conditions.reordering) %"
        }

        static let all = [
            Case(conditions: .perfect, seeds: 1...1),
            Case(conditions: WireConditions(loss: 20), seeds: 1...40),
            Case(conditions: WireConditions(duplication: 100), seeds: 1...5),
            Case(conditions: WireConditions(reordering: 50), seeds: 1...20),
            Case(conditions: WireConditions(loss: 15, duplication: 30, reordering: 50), seeds: 1...40),
        ]
    }

    private func established(
        _ limits: Connection.Limits? = nil, keepsOpenSSL: Bool = false
    ) throws -> (AssociationPair, AssociationPair.Side) {
        let pair = try AssociationPair(limits: limits ?? self.limits, keepsOpenSSL: keepsOpenSSL)
        pair.handshake()
        let server = try #require(pair.server)
        #expect(pair.client.isEstablished && server.isEstablished)
        return (pair, server)
    }

    // MARK: Handshake

    /// Cookie exchange, admission, hand-over and handshake, on every kind of wire.
    @Test(arguments: Case.all) func `a client is served over any wire`(_ wire: Case) throws {
        for seed in wire.seeds {
            let pair = try AssociationPair(conditions: wire.conditions, seed: seed, limits: patientLimits)
            pair.handshake()
            let server = try #require(pair.server, "seed \(seed)")
            #expect(pair.client.isEstablished && server.isEstablished, "seed \(seed)")
            // Whatever was lost or doubled, one client has one place.
            #expect(pair.endpoint.counters.admitted == 1, "seed \(seed)")
            pair.wire.conditions = .perfect
            try pair.send([1, 2, 3], from: pair.client)
            try pair.send([4, 5], from: server)
            pair.run(for: .seconds(1))
            #expect(server.messages == [[1, 2, 3]] && pair.client.messages == [[4, 5]], "seed \(seed)")
            let counters = server.association.counters
            #expect(counters.messagesIn == 1 && counters.bytesIn == 3, "seed \(seed)")
            #expect(counters.messagesOut == 1 && counters.bytesOut == 2, "seed \(seed)")
        }
    }

    @Test func `nothing is kept of a client before its cookie`() throws {
        let pair = try AssociationPair(limits: limits)
        pair.run { !$0.sent(to: .client).isEmpty }
        #expect(pair.server == nil && pair.endpoint.counters.admitted == 0)
        #expect(pair.endpoint.counters.hellosAnswered == 1)
    }

    @Test func `a client that is refused is served once there is a place`() throws {
        let pair = try AssociationPair(limits: limits)
        pair.refusal = .full
        pair.run { $0.endpoint.counters.refused[.full] > 0 }
        #expect(pair.server == nil)
        pair.refusal = nil
        pair.handshake()
        #expect(pair.client.isEstablished)
        // It sends its hello again after a quarter of a second (FlightTiming).
        #expect(pair.elapsed >= .milliseconds(250) && pair.elapsed < .seconds(1))
    }

    /// Until its own socket is connected, what a client sends comes to the listener (rule 4).
    @Test func `what comes to the listener after the admission reaches the association`() throws {
        let pair = try AssociationPair(limits: limits)
        pair.isSocketConnected = false
        pair.handshake()
        let server = try #require(pair.server)
        #expect(pair.client.isEstablished && server.isEstablished)
        #expect(pair.forwarded > 0 && pair.endpoint.counters.admitted == 1)
    }

    /// After the round trip that the exchange of the cookie has taken, or what the operator has said.
    @Test(arguments: [(nil, 375), (.seconds(1), 1_000)] as [(setting: Duration?, milliseconds: Int64)])
    func `a flight that is lost is sent again`(_ timer: (setting: Duration?, milliseconds: Int64)) throws {
        let pair = try AssociationPair(limits: Connection.Limits(retransmission: timer.setting))
        pair.run { $0.server != nil }
        // The server's first flight is under way now.
        pair.wire.conditions = WireConditions(loss: 100)
        let before = pair.wire.sentCount
        pair.run(for: .milliseconds(timer.milliseconds - 100))
        #expect(pair.sent(to: .client, after: before).isEmpty)
        pair.run(for: .milliseconds(100))
        #expect(!pair.sent(to: .client, after: before).isEmpty)
        pair.wire.conditions = .perfect
        pair.handshake()
        #expect(pair.client.isEstablished && pair.server?.isEstablished == true)
    }

    @Test func `a client that vanishes in its handshake is given up in time`() throws {
        let pair = try AssociationPair(limits: Connection.Limits(handshakeTimeout: .seconds(20)))
        pair.wire.interfere = { _, side, datagram in
            // The HelloVerifyRequest arrives, and nothing that the server says after it.
            side == .client && HelloAnswer(datagram) == .serverHello ? [] : [.init(datagram)]
        }
        pair.run { $0.server != nil }
        let server = try #require(pair.server)
        let started = pair.elapsed
        pair.run { !($0.server?.association.isOpen ?? false) }
        #expect(server.happenings == [.ended(.handshakeTimedOut)])
        #expect(pair.elapsed - started == .seconds(20))
    }

    // MARK: Time

    @Test func `an association that receives nothing ends after its idle timeout`() throws {
        let (pair, server) = try established()
        try pair.send([1], from: pair.client)
        pair.run { _ in !server.messages.isEmpty }
        let received = pair.elapsed
        // What it sends itself does not count.
        pair.run(for: .seconds(200))
        try pair.send([2], from: server)
        pair.run { _ in !server.association.isOpen }
        #expect(server.happenings.last == .ended(.idle))
        #expect(pair.elapsed - received == .seconds(300))
        pair.run { !$0.client.association.isOpen }
        #expect(pair.client.happenings.last == .ended(.closedByPeer))
    }

    @Test func `record buffers are given back after a second, and taken again for messages`() throws {
        let (pair, server) = try established(Connection.Limits(), keepsOpenSSL: true)
        let now = AssociationPair.now
        #expect(server.association.deadline(now: now) <= now + .seconds(1))
        pair.run(for: .seconds(2))
        // With no idle timeout, there is nothing left to do.
        #expect(server.alarm == .distantFuture && pair.client.alarm == .distantFuture)
        try pair.send([1], from: pair.client)
        pair.run(for: .milliseconds(100))
        try pair.send([2], from: server)
        pair.run(for: .milliseconds(100))
        #expect(server.messages == [[1]] && pair.client.messages == [[2]])
        #expect(server.alarm <= AssociationPair.now + .seconds(1))
        pair.run(for: .seconds(2))
        #expect(server.alarm == .distantFuture)
    }

    @Test func `nothing is due after a handshake whose records are not OpenSSL's`() throws {
        let (pair, server) = try established(Connection.Limits())
        // The last flight is in the slot file, and is given up when the peer asks for it too late.
        #expect(server.association.deadline(now: AssociationPair.now) == .distantFuture)
        #expect(pair.client.association.deadline(now: AssociationPair.now) == .distantFuture)
        try pair.send([1], from: pair.client)
        pair.run(for: .milliseconds(100))
        #expect(server.messages == [[1]])
        #expect(server.association.deadline(now: AssociationPair.now) == .distantFuture)
    }

    // MARK: Shutdown

    @Test func `close_notify ends both sides`() throws {
        let (pair, server) = try established()
        pair.close(pair.client)
        #expect(pair.client.happenings.last == .ended(.closedHere))
        pair.run { _ in !server.association.isOpen }
        #expect(server.happenings.last == .ended(.closedByPeer))
        #expect(throws: EngineError.notEstablished) { try pair.send([1], from: server) }
    }

    @Test func `an association that has ended takes no datagram for its own`() throws {
        let (pair, server) = try established()
        // The client does not hear of it.
        pair.wire.interfere = { _, side, datagram in side == .client ? [] : [.init(datagram)] }
        pair.close(server)
        // The endpoint has forgotten the flow by then.
        pair.run(for: .seconds(2))
        try pair.send([1], from: pair.client)
        pair.run(for: .milliseconds(100))
        #expect(server.messages.isEmpty && pair.recordsOfNoConnection == 1)
    }

    // MARK: Rehandshake (RFC 6347, section 4.2.8)

    @Test(arguments: Case.all) func `a client that has lost its state is served on its old port`(_ wire: Case) throws {
        for seed in wire.seeds {
            let pair = try AssociationPair(seed: seed, limits: patientLimits)
            pair.handshake()
            let server = try #require(pair.server)
            try pair.send([1], from: pair.client)
            pair.run { _ in !server.messages.isEmpty }
            pair.wire.conditions = wire.conditions
            try pair.restartClient()
            pair.run { $0.client.isEstablished && server.happenings.count == 3 }
            #expect(pair.client.isEstablished, "seed \(seed)")
            #expect(server.happenings == [.established, .replaced, .established], "seed \(seed)")
            #expect(server.association.counters.messagesIn == 0, "it counts from the beginning")
            // It is the same connection: nobody has been admitted again.
            #expect(pair.server === server && pair.endpoint.counters.admitted == 1, "seed \(seed)")
            pair.wire.conditions = .perfect
            try pair.send([2], from: pair.client)
            try pair.send([3], from: server)
            pair.run(for: .seconds(1))
            #expect(server.messages == [[1], [2]] && pair.client.messages == [[3]], "seed \(seed)")
        }
    }

    @Test func `a forged hello changes nothing`() throws {
        let (pair, server) = try established()
        let forged = ClientHelloBytes()
        for datagram in [forged.bytes(), forged.bytes(cookie: Array(repeating: 7, count: 32), number: 1)] {
            let before = pair.wire.sentCount
            pair.inject(datagram)
            let answers = pair.sent(to: .client, after: before)
            #expect(answers.count == 1 && (answers.first?.count ?? .max) < datagram.count)
        }
        try pair.send([1], from: pair.client)
        try pair.send([2], from: server)
        pair.run(for: .seconds(1))
        #expect(server.messages == [[1]] && pair.client.messages == [[2]])
        #expect(server.happenings == [.established])
    }

    @Test func `a client that has lost its state is dropped where none is offered`() throws {
        let (pair, server) = try established()
        pair.offersAnything = false
        try pair.restartClient()
        pair.run(for: .seconds(10))
        #expect(!pair.client.isEstablished && server.happenings == [.established])
    }

    @Test func `without a context, a valid cookie ends the association, and the client is a new one`() throws {
        let (pair, server) = try established()
        pair.offersContext = false
        // The endpoint has forgotten the first life by then.
        pair.run(for: .seconds(3))
        try pair.restartClient()
        pair.run { $0.client.isEstablished }
        #expect(server.happenings == [.established, .ended(.replaced)])
        #expect(pair.client.isEstablished && pair.server !== server)
        #expect(pair.endpoint.counters.admitted == 2)
    }

    @Test func `a client that starts again in its handshake is a new one`() throws {
        let pair = try AssociationPair(limits: limits)
        pair.wire.interfere = { _, side, datagram in
            side == .client && HelloAnswer(datagram) == .serverHello ? [] : [.init(datagram)]
        }
        pair.run { $0.server != nil }
        let first = try #require(pair.server)
        pair.run(for: .milliseconds(2_500))
        pair.wire.interfere = nil
        try pair.restartClient()
        pair.run { $0.client.isEstablished }
        #expect(first.happenings == [.ended(.replaced)])
        #expect(pair.client.isEstablished && pair.server !== first)
    }

    @Test func `messages are dropped for a second while the client does a new handshake`() throws {
        let (pair, server) = try established()
        // The new handshake goes as far as the server's flight.
        pair.wire.interfere = { _, side, datagram in
            side == .server && Self.isClientKeyExchange(datagram) ? [] : [.init(datagram)]
        }
        let before = pair.wire.sentCount
        try pair.restartClient()
        pair.run { $0.sent(to: .server, after: before).contains(where: Self.isClientKeyExchange) }
        try pair.send([1], from: server)
        #expect(server.happenings == [.established] && server.association.counters.unsent == 1)
        pair.run(for: .seconds(1))
        try pair.send([2], from: server)
        #expect(server.happenings == [.established] && server.association.counters.unsent == 1)
        #expect(server.association.counters.messagesOut == 1)
    }

    private static func isClientKeyExchange(_ datagram: [UInt8]) -> Bool {
        // RFC 5246, section 7.4: client_key_exchange(16).
        datagram.count > 13 && datagram[0] == 22 && datagram[4] == 0 && datagram[13] == 16
    }

    @Test func `a new handshake that fails leaves the association as it was`() throws {
        let (pair, server) = try established(Connection.Limits(handshakeTimeout: .seconds(10)))
        let first = pair.client
        pair.wire.interfere = { _, side, datagram in
            side == .client && HelloAnswer(datagram) == .serverHello ? [] : [.init(datagram)]
        }
        try pair.restartClient()
        pair.run { _ in server.happenings.count == 2 }
        #expect(server.happenings == [.established, .rehandshakeFailed(.handshakeTimedOut)])
        #expect(server.association.isOpen && first.association.isOpen)
        let before = pair.wire.sentCount
        try pair.send([1], from: server)
        #expect(pair.sent(to: .client, after: before).count == 1)
    }

    // MARK: Path

    @Test func `a message that the path does not take is refused and counted`() throws {
        let (pair, server) = try established()
        let message = [UInt8](repeating: 1, count: 1_400)
        #expect(throws: EngineError.self) { try pair.send(message, from: server, enforcedMTU: 1_280) }
        #expect(server.association.counters.tooLarge == 1 && server.association.counters.messagesOut == 0)
        let largest = server.association.largestMessage(enforcedMTU: 1_280)
        // IP and UDP take 28 bytes, a record's header 13, and the cipher its nonce and tag.
        #expect((1_180...1_239).contains(largest))
        let before = pair.wire.sentCount
        try pair.send([UInt8](repeating: 1, count: largest), from: server, enforcedMTU: 1_280)
        #expect(try #require(pair.sent(to: .client, after: before).first).count == 1_252)
        #expect(throws: EngineError.self) {
            try pair.send([UInt8](repeating: 1, count: largest + 1), from: server, enforcedMTU: 1_280)
        }
    }

    @Test func `the kernel is asked again once the path has become smaller`() throws {
        let (pair, server) = try established()
        let message = [UInt8](repeating: 1, count: 1_000)
        try pair.send(message, from: server, enforcedMTU: 1_500)
        // What fits is known now.
        try pair.send(message, from: server, enforcedMTU: 600)
        server.association.pathHasShrunk(toMTU: 600)
        #expect(throws: EngineError.self) { try pair.send(message, from: server, enforcedMTU: 600) }
        try pair.send(message, from: server, enforcedMTU: nil)
        #expect(server.association.counters.messagesOut == 3 && server.association.counters.tooLarge == 1)
    }

    @Test func `there is no largest message before the handshake is done`() throws {
        let pair = try AssociationPair(limits: limits)
        #expect(pair.client.association.largestMessage(enforcedMTU: 1_500) == 0)
        #expect(pair.client.association.largestMessage(enforcedMTU: nil) == 0)
        pair.handshake()
        #expect(pair.client.association.largestMessage(enforcedMTU: nil) == Engine.maximumMessageSize)
    }

    @Test func `a bound of records holds whatever the kernel says of the path`() throws {
        let (pair, server) = try established(Connection.Limits(recordBound: .size(600)))
        #expect(throws: EngineError.self) {
            try pair.send([UInt8](repeating: 1, count: 600), from: server, enforcedMTU: nil)
        }
        #expect(server.association.counters.tooLarge == 1 && server.association.counters.messagesOut == 0)
        let largest = server.association.largestMessage(enforcedMTU: nil)
        #expect((500...560).contains(largest))
        let before = pair.wire.sentCount
        try pair.send([UInt8](repeating: 1, count: largest), from: server, enforcedMTU: 9_000)
        #expect(try #require(pair.sent(to: .client, after: before).first).count == 572)
        // The smaller one of two limits counts.
        #expect(server.association.largestMessage(enforcedMTU: 300) < 300)
    }

    @Test func `a bound of records holds for the handshake too`() throws {
        #expect(Connection.Limits(mtu: 1_400, recordBound: .size(600)).mtu == 600)
        #expect(Connection.Limits(mtu: 500, recordBound: .size(600)).mtu == 500)
        #expect(Connection.Limits(mtu: 1_400, recordBound: .handshake).mtu == 1_400)
        #expect(Connection.Limits(recordBound: .handshake).recordBound == .handshake)
        #expect(Connection.Limits(recordBound: .size(256)).recordBound == .size(256))
    }

    @Test func `a handshake begins with the size that an earlier one has found`() throws {
        let pair = try AssociationPair(limits: limits)
        pair.buffers.pathSizes.note(576, to: pair.flow.peer.with(port: 7), now: AssociationPair.now)
        try pair.restartClient()
        pair.handshake()
        let server = try #require(pair.server)
        #expect(server.association.payloadSize == 548 && pair.client.association.payloadSize == 548)
    }

    @Test func `timeouts of days are kept in full`() {
        for days in [1, 49, 50, 400] {
            let limits = Connection.Limits(idleTimeout: .seconds(days * 86_400))
            #expect(limits.idleTimeout == .seconds(days * 86_400))
        }
        #expect(Connection.Limits(idleTimeout: .milliseconds(1)).idleTimeout > .zero)
        #expect(Connection.Limits(retransmission: .seconds(60)).retransmission == .seconds(60))
        #expect(Connection.Limits().retransmission == nil)
    }

    @Test func `an association whose peer sleeps for a week goes on`() throws {
        let (pair, server) = try established(Connection.Limits(idleTimeout: .seconds(8 * 86_400)))
        pair.pass(.seconds(7 * 86_400))
        try pair.send([1], from: pair.client)
        pair.run(for: .seconds(1))
        #expect(server.association.isOpen && server.messages == [[1]])
        pair.pass(.seconds(8 * 86_400 + 1))
        #expect(!server.association.isOpen)
    }
}
