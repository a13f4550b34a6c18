import DTLSEngine
import Primitives
import TestSupport
import Testing
import VirtualClock

/// One thing that a network does to one datagram of a handshake.
enum Fault: String, CaseIterable, Sendable {
    case drop
    case dropThrice
    case duplicate
    /// Behind what comes next.
    case delay
    /// Behind the next retransmission.
    case delayLong
    /// An alert, as the peer might send it before it has keys, comes just before it.
    case forgedFatalAlert
    case forgedCloseNotify
    case forgedWarnings
    /// An alert behind a record that belongs there.
    case forgedAlertBehind
    /// Records in plain text that are out of place, each just before it.
    case forgedData
    case forgedChangeCipherSpec
    case forgedShortMessage
    case forgedUnknownType
    /// Everything that was sent before comes again.
    case replay

    /// A record of epoch 0 with an alert, numbered where nothing was yet.
    static func alert(_ level: UInt8, _ description: UInt8, number: UInt8 = 200) -> [UInt8] {
        plain(21, [level, description], number: number)
    }

    static func plain(_ type: UInt8, _ content: [UInt8], number: UInt8 = 200) -> [UInt8] {
        [type, 0xfe, 0xfd, 0, 0, 0, 0, 0, 0, 1, number, 0, UInt8(content.count)] + content
    }
}

@Suite struct FaultTests {
    let certificates: TestCertificates

    init() throws { certificates = try TestCertificates.make() }

    /// With client certificates: most flights, and most datagrams.
    private func makePair(payloadSize: Int = 548, seed: UInt64 = 1) throws -> EnginePair {
        try EnginePair(
            client: ClientSettings(
                certificateAuthorities: certificates.authority, certificate: certificates.client.certificate,
                privateKey: certificates.client.privateKey),
            server: ServerSettings(
                certificate: certificates.rsaServer.certificate, privateKey: certificates.rsaServer.privateKey,
                certificateAuthorities: certificates.authority),
            payloadSize: payloadSize, seed: seed)
    }

    /// The datagrams of a handshake to which nothing happens.
    private func cleanHandshake() throws -> [(side: SimulatedWire.Side, datagram: [UInt8])] {
        let pair = try makePair()
        pair.handshake()
        try #require(pair.client.isEstablished && pair.server.isEstablished)
        pair.run()
        return pair.wire.sent
    }

    /// Has `fault` happen to datagram `number`.
    private func inject(_ fault: Fault, at number: Int, into pair: EnginePair) {
        var earlier: [(side: SimulatedWire.Side, datagram: [UInt8])] = []
        var dropped = 0
        pair.wire.interfere = { present, side, datagram in
            earlier.append((side, datagram))
            guard present == number || fault == .dropThrice && present > number && dropped < 3 else {
                return [.init(datagram)]
            }
            switch fault {
            case .drop: return []
            case .dropThrice:
                dropped += 1
                return []
            case .duplicate: return [.init(datagram), .init(datagram, later: 30_000)]
            case .delay: return [.init(datagram, later: 100_000)]
            case .delayLong: return [.init(datagram, later: 1_500_000)]
            case .forgedFatalAlert: return [.init(Fault.alert(2, 40)), .init(datagram, later: 1)]
            case .forgedCloseNotify: return [.init(Fault.alert(1, 0)), .init(datagram, later: 1)]
            case .forgedWarnings:
                return (0..<20).map { .init(Fault.alert(1, 90, number: $0)) } + [.init(datagram, later: 1)]
            case .forgedAlertBehind:
                // What is in front of it is of no use to anybody, and does not hide it.
                let front: [UInt8] = [20, 0xfe, 0xfd, 0, 9, 0, 0, 0, 0, 0, 1, 0, 1, 1]
                return [.init(front + Fault.alert(2, 40)), .init(datagram, later: 1)]
            case .forgedData: return [.init(Fault.plain(23, [1, 2, 3])), .init(datagram, later: 1)]
            case .forgedChangeCipherSpec: return [.init(Fault.plain(20, [2])), .init(datagram, later: 1)]
            case .forgedShortMessage: return [.init(Fault.plain(22, [1, 2, 3])), .init(datagram, later: 1)]
            case .forgedUnknownType: return [.init(Fault.plain(99, [0])), .init(datagram, later: 1)]
            case .replay:
                return [.init(datagram)] + earlier.filter { $0.side == side }.map { .init($0.datagram, later: 1) }
            }
        }
    }

    /// Whatever happens to any one datagram, there is a connection at last, it works both ways, and nothing is left.
    @Test(arguments: Fault.allCases)
    func `a handshake survives a fault in any of its datagrams`(_ fault: Fault) throws {
        let count = try cleanHandshake().count
        try #require(count > 8)
        for number in 0..<count {
            let pair = try makePair()
            inject(fault, at: number, into: pair)
            pair.handshake()
            let note: Comment = "\(fault) of datagram \(number)"
            try #require(pair.client.error == nil && pair.server.error == nil, note)
            try #require(pair.client.isEstablished && pair.server.isEstablished, note)
            try exchange(pair, note)
            weak let client = pair.client.engine
            weak let server = pair.server.engine
            #expect(client != nil && server != nil, note)
            pair.letGo()
            #expect(client == nil && server == nil, note)
        }
    }

    private func exchange(_ pair: EnginePair, _ note: Comment) throws {
        pair.run()
        try pair.send([1, 2, 3], from: .client)
        try pair.send([4, 5], from: .server)
        pair.run()
        #expect(pair.server.messages == [[1, 2, 3]], note)
        #expect(pair.client.messages == [[4, 5]], note)
        #expect(pair.client.error == nil && pair.server.error == nil, note)
    }

    /// Every datagram with each of its first bytes turned: what is protected is dropped and sent again; what is not may
    /// spoil the handshake, which then ends on both sides.
    @Test func `corrupted datagrams do not end a handshake`() throws {
        let clean = try cleanHandshake()
        for (number, (_, original)) in clean.enumerated() {
            let isProtected = original[3] == 0 && original[4] == 1
            for position in [0, 1, 4, 10, 12, 13, 20, 24, 25, original.count - 1] where position < original.count {
                let pair = try makePair()
                pair.wire.interfere = { present, _, datagram in
                    var datagram = datagram
                    if present == number, position < datagram.count { datagram[position] ^= 0x41 }
                    return [.init(datagram)]
                }
                pair.handshake()
                let note: Comment = "byte \(position) of datagram \(number)"
                if isProtected {
                    try #require(pair.client.isEstablished && pair.server.isEstablished, note)
                    try exchange(pair, note)
                } else {
                    pair.run()
                    #expect(pair.client.isAtEnd, note)
                    #expect(pair.client.isEstablished == (pair.server.isEstablished && pair.server.error == nil), note)
                }
            }
        }
    }

    /// All that was ever sent, alerts and records of other epochs: an established connection takes nothing of it.
    @Test func `replays and forgeries change nothing after the handshake`() throws {
        let pair = try makePair()
        pair.handshake()
        pair.run()
        try pair.send([1, 2, 3], from: .client)
        try pair.send([4, 5], from: .server)
        pair.run()
        let earlier = pair.wire.sent
        for round in 0..<20 {
            for (side, datagram) in earlier {
                pair.wire.send(datagram, to: side, at: virtual_clock_now())
                for epoch in [0, 2, 0xff] as [UInt8] {
                    var other = datagram
                    other[4] = epoch
                    pair.wire.send(other, to: side, at: virtual_clock_now())
                }
            }
            for side in [SimulatedWire.Side.client, .server] {
                for type in [20, 21, 22, 23, 24] as [UInt8] {
                    for epoch in [0, 1, 2] as [UInt8] {
                        let forged = [type, 0xfe, 0xfd, 0, epoch, 0, 0, 0, 0, 9, UInt8(round), 0, 2, 2, 40]
                        pair.wire.send(forged, to: side, at: virtual_clock_now())
                    }
                }
            }
            pair.run()
        }
        let answers = pair.wire.sentCount - earlier.count * (1 + 20 * 4) - 20 * 2 * 15
        #expect(answers == 0, "they were answered \(answers) times")
        try pair.send([6], from: .client)
        try pair.send([7], from: .server)
        pair.run()
        #expect(pair.server.messages == [[1, 2, 3], [6]])
        #expect(pair.client.messages == [[4, 5], [7]])
        #expect(pair.client.error == nil && pair.server.error == nil)
        #expect(!pair.client.isClosed && !pair.server.isClosed)
    }

    /// The server's side is done and has given its buffers back when the client asks for its last flight once more.
    @Test(arguments: 1...4)
    func `the last flight is sent again when it is lost`(times: Int) throws {
        let pair = try makePair()
        var lost = 0
        pair.wire.interfere = { _, side, datagram in
            let isLastFlight = datagram.withUnsafeBytes { datagram in
                side == .client
                    && Records(of: datagram).contains {
                        $0.contentType == .changeCipherSpec || $0.contentType == .handshake && $0.isProtected
                    }
            }
            guard isLastFlight, lost < times else { return [.init(datagram)] }
            lost += 1
            return []
        }
        pair.run { $0.server.isEstablished }
        #expect(!pair.client.isEstablished)
        pair.server.engine?.releaseBuffers()
        pair.run { pair in
            pair.server.engine?.releaseBuffers()
            return pair.client.isEstablished
        }
        #expect(lost == times)
        try exchange(pair, "lost \(times) times")
    }

    /// The server may speak before its last flight has arrived; that message is lost or kept, and breaks nothing.
    @Test func `a message that overtakes the last flight arrives`() throws {
        let pair = try makePair()
        var isHeld = true
        pair.wire.interfere = { _, side, datagram in
            let later: Int64 = side == .client && datagram[4] == 1 && datagram[0] == 22 && isHeld ? 400_000 : 0
            return [.init(datagram, later: later)]
        }
        pair.run { $0.server.isEstablished }
        isHeld = false
        try pair.send([9], from: .server)
        pair.handshake()
        pair.run()
        #expect(pair.client.isEstablished)
        try pair.send([4, 5], from: .server)
        pair.run()
        #expect(pair.client.messages.last == [4, 5])
        #expect(pair.client.error == nil && pair.server.error == nil)
    }

    /// A peer that has said goodbye, of which nothing arrived: nobody ends, and nobody waits for a timer.
    @Test(arguments: [SimulatedWire.Side.client, .server])
    func `a lost close_notify leaves the other side open`(_ side: SimulatedWire.Side) throws {
        let pair = try makePair()
        pair.handshake()
        pair.run()
        pair.wire.conditions = WireConditions(loss: 100)
        pair.close(side)
        pair.run()
        let other = side == .client ? pair.server : pair.client
        #expect(!other.isClosed && other.error == nil)
        #expect(other.engine?.deadline == .distantFuture)
    }

    /// A peer that really ends in its handshake says so with such an alert too: it is believed after 3 seconds, with
    /// its reason.
    @Test func `a plaintext alert ends a handshake when nothing follows it`() throws {
        let pair = try EnginePair(
            client: ClientSettings(certificateAuthorities: certificates.wrongAuthority),
            server: ServerSettings(
                certificate: certificates.rsaServer.certificate, privateKey: certificates.rsaServer.privateKey))
        pair.run { $0.client.error != nil }
        let start = pair.elapsed
        pair.handshake()
        let error = try #require(pair.server.error)
        #expect("\(error)".contains("alert"), "\(error)")
        #expect(pair.elapsed - start < 3_500_000)
        #expect(pair.elapsed - start > 2_000_000)
    }
}
