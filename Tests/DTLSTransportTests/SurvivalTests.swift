import DTLSEngine
import Primitives
import TestSupport
import Testing
import VirtualClock

@testable import DTLSTransport

/// Associations that go on by what is in their slots, in another association or after the death of the process.
@Suite struct SurvivalTests {
    private func established(_ limits: Connection.Limits = Connection.Limits()) throws -> AssociationPair {
        let pair = try AssociationPair(limits: limits)
        pair.handshake()
        let server = try #require(pair.server)
        #expect(pair.client.isEstablished && server.isEstablished)
        return pair
    }

    /// The numbers of the protected records that the server has sent, in all of its lives.
    private func numbers(_ pair: AssociationPair) -> [UInt64] {
        pair.sent(to: .client).flatMap { datagram in
            datagram.withUnsafeBytes { bytes in
                var numbers: [UInt64] = []
                var offset = 0
                while let record = Record(of: bytes, at: offset) {
                    if record.isProtected { numbers.append(record.number) }
                    offset += Record.headerSize + record.length
                }
                return numbers
            }
        }
    }

    /// Messages both ways. Those whose process dies may be lost.
    private func exchange(_ pair: AssociationPair, _ rounds: Range<UInt8>) throws {
        for round in rounds {
            try pair.send([round], from: pair.client)
            pair.run(for: .seconds(1))
            guard !pair.isServerDead, let server = pair.server else { return }
            try pair.send([round, round], from: server)
            pair.run(for: .seconds(1))
        }
    }

    // MARK: Going on elsewhere

    @Test func `what an association has agreed on and counted is in its slot`() throws {
        let pair = try established()
        try exchange(pair, 0..<3)
        let slot = pair.slot.slot
        let server = try #require(pair.server)
        #expect(slot.phase == .established && slot.flow == pair.flow && slot.target == 7)
        var agreed = server.association.session
        #expect(agreed.group != nil)
        // It is told once, when the handshake is done.
        agreed.group = nil
        #expect(slot.session == agreed && slot.session?.version == "DTLSv1.2")
        #expect(slot.counters.messagesIn == 3 && slot.counters.bytesOut == 6)
        #expect(slot.lastReceived > slot.started)
    }

    @Test func `an association that is suspended after every step goes on as if nothing had been`() throws {
        let pair = try established()
        for round in UInt8(0)..<20 {
            try pair.suspendServer()
            try exchange(pair, round..<(round + 1))
            try pair.suspendServer()
        }
        #expect(pair.server?.messages == (UInt8(0)..<20).map { [$0] })
        #expect(pair.client.messages == (UInt8(0)..<20).map { [$0, $0] })
        #expect(pair.server?.association.counters.messagesIn == 20)
        let numbers = numbers(pair)
        #expect(Set(numbers).count == numbers.count && numbers.count >= 20)
        // Nothing that came before is new to an association that was resumed.
        let before = try #require(pair.server).messages.count
        for datagram in pair.sent(to: .server) { pair.inject(datagram) }
        #expect(pair.server?.messages.count == before)
    }

    @Test func `close_notify works in an association that was resumed, and wipes the slot`() throws {
        let pair = try established()
        try pair.suspendServer()
        let server = try #require(pair.server)
        pair.close(server)
        server.association.wipeSlot()
        pair.run(for: .seconds(1))
        #expect(pair.client.happenings.last == .ended(.closedByPeer))
        #expect(pair.slot.slot.phase == .ended)
        let slot = pair.slot.slot
        let secrets = UnsafeRawBufferPointer(start: slot.records, count: RecordState.byteCount)
        #expect(secrets.allSatisfy { $0 == 0 })
    }

    @Test func `a client that has lost its state does a new handshake with an association that was resumed`() throws {
        let pair = try established()
        try pair.suspendServer()
        let random = [UInt8](pair.slot.slot.random)
        try pair.restartClient()
        pair.run(for: .seconds(30)) { $0.client.isEstablished }
        #expect(pair.client.isEstablished && pair.server?.happenings.contains(.replaced) == true)
        #expect([UInt8](pair.slot.slot.random) != random)
        try pair.suspendServer()
        try exchange(pair, 0..<3)
        #expect(pair.server?.messages == [[0], [1], [2]] && pair.client.messages == [[0, 0], [1, 1], [2, 2]])
    }

    @Test func `a late copy of its own hello begins nothing with an association that was resumed`() throws {
        let pair = try established()
        let hello = try #require(pair.sent(to: .server).dropFirst().first)
        try pair.suspendServer()
        let sent = pair.wire.sentCount
        pair.inject(hello)
        #expect(pair.wire.sentCount == sent && pair.server?.happenings.contains(.replaced) == false)
    }

    // MARK: Death

    /// Lets the server's process die at the moment with this number, counted from the end of the handshake.
    /// - Returns: the pair, and what was in the slot then; `nil` where there is no such moment.
    private func death(
        at number: Int, _ act: (AssociationPair) throws -> Void
    ) throws -> (pair: AssociationPair, slot: SlotMemory)? {
        let pair = try established()
        var count = 0
        var copy: SlotMemory?
        pair.moment = { [unowned pair] in
            if count == number {
                copy = pair.slot.copy()
                pair.isServerDead = true
            }
            count += 1
        }
        try act(pair)
        pair.moment = {}
        return copy.map { (pair, $0) }
    }

    @Test func `a death between any two steps uses no number twice and takes no record twice`() throws {
        var deaths = 0
        while let (pair, slot) = try death(at: deaths, { try exchange($0, 0..<4) }) {
            deaths += 1
            try pair.reviveServer(from: slot)
            // An attacker who has recorded them sends all again.
            for datagram in pair.sent(to: .server) { pair.inject(datagram) }
            try exchange(pair, 100..<104)
            pair.run(for: .seconds(1))
            let taken = try #require(pair.server).messages
            #expect(Set(taken).count == taken.count, "death \(deaths)")
            #expect(taken.suffix(4) == [[100], [101], [102], [103]], "death \(deaths)")
            #expect(pair.client.messages.suffix(4) == [[100, 100], [101, 101], [102, 102], [103, 103]])
            let numbers = numbers(pair)
            #expect(Set(numbers).count == numbers.count, "death \(deaths)")
        }
        #expect(deaths > 20)
    }

    /// Either association is whole. The client of one that was replaced just then has to begin again.
    @Test func `a death during a replacement leaves the old association or the new one`() throws {
        var deaths = 0
        var found: Set<[UInt8]> = []
        let restart = { (pair: AssociationPair) in
            try pair.restartClient()
            pair.run(for: .seconds(5)) { $0.client.isEstablished || $0.isServerDead }
        }
        while let (pair, slot) = try death(at: deaths, restart) {
            deaths += 1
            #expect(slot.slot.phase == .established && slot.slot.session?.version == "DTLSv1.2", "death \(deaths)")
            found.insert([UInt8](slot.slot.random))
            try pair.reviveServer(from: slot)
            // What is on its way is another client's: a ServerHello of another handshake ends this one.
            pair.run(for: .milliseconds(500))
            try pair.restartClient()
            pair.run(for: .seconds(60)) { $0.client.isEstablished }
            #expect(pair.client.isEstablished, "death \(deaths)")
            try exchange(pair, 0..<2)
            #expect(pair.client.messages == [[0, 0], [1, 1]], "death \(deaths)")
        }
        #expect(deaths > 10 && found.count > 1)
    }

    // MARK: The end of the handshake

    /// Whether it has the server's ChangeCipherSpec, behind a ticket or not.
    private static func isLastFlight(_ datagram: [UInt8]) -> Bool {
        datagram.withUnsafeBytes { Records(of: $0).contains { $0.contentType == .changeCipherSpec } }
    }

    private static func holdsFinished(_ datagram: [UInt8]) -> Bool {
        datagram.withUnsafeBytes { Records(of: $0).contains { $0.contentType == .handshake && $0.isProtected } }
    }

    /// RFC 6347, section 4.2.4: whoever sends the last flight sends it again when it is asked to.
    @Test(arguments: [1, 2, 3])
    func `a client that has lost the last flight gets it from an association that was resumed`(_ lives: Int) throws {
        let pair = try AssociationPair()
        pair.wire.interfere = { _, side, datagram in
            side == .client && Self.isLastFlight(datagram) ? [] : [.init(datagram)]
        }
        pair.run(for: .seconds(10)) { $0.server?.isEstablished == true }
        #expect(pair.server?.isEstablished == true && !pair.client.isEstablished)
        for _ in 1..<lives {
            // The client asks, in vain, and what is sent to it takes numbers.
            try pair.suspendServer()
            let sent = pair.wire.sentCount
            pair.run(for: .seconds(20)) { $0.sent(to: .client, after: sent).contains(where: Self.isLastFlight) }
        }
        try pair.suspendServer()
        pair.wire.interfere = { _, _, datagram in [.init(datagram)] }
        pair.run(for: .seconds(30)) { $0.client.isEstablished }
        #expect(pair.client.isEstablished)
        try exchange(pair, 0..<3)
        #expect(pair.server?.messages == [[0], [1], [2]] && pair.client.messages == [[0, 0], [1, 1], [2, 2]])
    }

    @Test(arguments: [true, false])
    func `a last flight is sent until a minute after it was asked for last`(_ isResumed: Bool) throws {
        let pair = try AssociationPair()
        var requests: [[UInt8]] = []
        var isHolding = false
        pair.wire.interfere = { _, side, datagram in
            if side == .client { return Self.isLastFlight(datagram) ? [] : [.init(datagram)] }
            guard isHolding, Self.holdsFinished(datagram) else { return [.init(datagram)] }
            requests.append(datagram)
            return []
        }
        func isAnswered(_ request: [UInt8]) -> Bool {
            let count = pair.wire.sentCount
            pair.inject(request)
            return pair.sent(to: .client, after: count).contains(where: Self.isLastFlight)
        }
        pair.run(for: .seconds(10)) { $0.server?.isEstablished == true }
        isHolding = true
        if isResumed { try pair.suspendServer() }
        pair.pass(.seconds(63))
        try #require(requests.count > 4)
        #expect(isAnswered(requests[0]))
        pair.pass(.seconds(60))
        #expect(isAnswered(requests[1]), "it was asked for a minute ago")
        pair.pass(.seconds(66))
        #expect(!isAnswered(requests[2]))
        #expect(!isAnswered(requests[3]))
    }

    @Test(arguments: [true, false])
    func `a last flight that nobody has asked for in time is not sent`(_ isResumed: Bool) throws {
        let pair = try AssociationPair()
        var requests: [[UInt8]] = []
        pair.wire.interfere = { [unowned pair] _, side, datagram in
            if side == .client { return Self.isLastFlight(datagram) ? [] : [.init(datagram)] }
            guard pair.server?.isEstablished == true, Self.holdsFinished(datagram) else { return [.init(datagram)] }
            requests.append(datagram)
            return []
        }
        pair.run(for: .seconds(10)) { $0.server?.isEstablished == true }
        if isResumed { try pair.suspendServer() }
        pair.pass(.seconds(66))
        let count = pair.wire.sentCount
        for request in requests { pair.inject(request) }
        #expect(requests.count > 2)
        let isSent = pair.sent(to: .client, after: count).contains(where: Self.isLastFlight)
        #expect(!isSent)
    }

    @Test func `a last flight is given up after a minute, and with the first message`() throws {
        let pair = try AssociationPair()
        pair.handshake()
        let slots = try #require(pair.buffers.slots)
        let slot = pair.slot.slot
        let flight = try #require(slots.flight(of: slot))
        #expect(flight.expiry > AssociationPair.now + .seconds(60))
        #expect(flight.expiry < AssociationPair.now + .seconds(70))
        try pair.send([1], from: pair.client)
        pair.run(for: .seconds(1))
        #expect(slots.flight(of: slot) == nil)
    }

    /// From the moment on from which the connection is one to go on with, its peer can finish the handshake.
    @Test func `a death at the end of a handshake leaves the client able to finish it`() throws {
        var deaths = 0
        var survived = 0
        while true {
            let pair = try AssociationPair()
            var count = 0
            var copy: SlotMemory?
            pair.moment = { [unowned pair] in
                if count == deaths {
                    copy = pair.slot.copy()
                    pair.isServerDead = true
                }
                count += 1
            }
            pair.run(for: .seconds(5)) { $0.client.isEstablished || $0.isServerDead }
            pair.moment = {}
            guard let copy else { break }
            deaths += 1
            guard copy.slot.phase == .established else { continue }
            survived += 1
            try pair.reviveServer(from: copy)
            pair.run(for: .seconds(60)) { $0.client.isEstablished }
            #expect(pair.client.isEstablished, "death \(deaths)")
            try exchange(pair, 0..<2)
            #expect(pair.client.messages == [[0, 0], [1, 1]], "death \(deaths)")
        }
        #expect(survived > 1)
    }

    // MARK: Silence

    @Test func `an association is silent when nothing has passed in either direction`() throws {
        let pair = try established(Connection.Limits(parkAfter: .seconds(60)))
        let server = try #require(pair.server)
        try pair.send([1], from: pair.client)
        pair.run { _ in !server.messages.isEmpty }
        pair.run(for: .seconds(40))
        try pair.send([2], from: server)
        let sent = AssociationPair.now
        #expect(server.association.deadline(now: sent) <= sent + .seconds(60))
        #expect(!server.association.isSilent(now: sent + .seconds(59)))
        #expect(server.association.isSilent(now: sent + .seconds(60)))
        #expect(server.association.hasBeenSilent(for: .seconds(10), now: sent + .seconds(10)))
    }

    @Test func `an association is not silent without the wish, nor while a re-handshake goes on`() throws {
        let never = try established()
        let now = AssociationPair.now
        #expect(never.server?.association.isSilent(now: now + .seconds(100_000)) == false)

        let pair = try established(Connection.Limits(parkAfter: .seconds(1)))
        let server = try #require(pair.server)
        pair.wire.interfere = { _, side, datagram in
            side == .client && HelloAnswer(datagram) == .serverHello ? [] : [.init(datagram)]
        }
        try pair.restartClient()
        pair.run(for: .seconds(2))
        #expect(!server.association.isSilent(now: AssociationPair.now + .seconds(10)))
        #expect(!server.association.hasBeenSilent(for: .seconds(1), now: AssociationPair.now + .seconds(10)))
        // The new handshake has failed in time. Nobody parks the association here, so its deadline would pass for ever.
        pair.run(for: .seconds(120)) { _ in server.association.isSilent(now: AssociationPair.now) }
        #expect(server.association.isSilent(now: AssociationPair.now))
    }

    @Test func `records for a parked association are told from forged and replayed ones, and not marked`() throws {
        let pair = try established()
        try exchange(pair, 0..<2)
        let records = pair.slot.slot.records
        let bio = pair.buffers.bio
        func isGood(_ datagram: [UInt8]) -> Bool {
            datagram.withUnsafeBytes { RecordState.authenticates($0, at: records, over: bio) != .no }
        }
        let old = pair.wire.sentCount
        pair.wire.conditions = WireConditions(loss: 100)
        try pair.send([9, 9, 9], from: pair.client)
        let good = try #require(pair.sent(to: .server, after: old).first)
        #expect(isGood(good) && isGood(good))
        var forged = good
        forged[forged.count - 1] ^= 1
        #expect(!isGood(forged))
        let replayed = try #require(pair.sent(to: .server).dropLast().last)
        #expect(!isGood(replayed))
        #expect(!isGood([]) && !isGood([22, 254, 253, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]))
        pair.inject(good)
        #expect(pair.server?.messages.last == [9, 9, 9] && !isGood(good))
    }
}
