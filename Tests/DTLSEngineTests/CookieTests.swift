import Primitives
import TestSupport
import Testing

@testable import DTLSEngine

private let secret = [UInt8](repeating: 7, count: 32)
/// Address and port, as SocketAddress.withBytes writes them.
private let peer: [UInt8] = [192, 0, 2, 1, 0x30, 0x39]
private let local: [UInt8] = [198, 51, 100, 7, 0x11, 0x51]
private let minute = Minute(number: 29_000_000)

/// The reply to a hello, empty if there is none.
private func reply(
    to bytes: [UInt8], from peer: [UInt8] = peer, at local: [UInt8] = local, minute: Minute = minute,
    by authority: CookieAuthority, room: Int = CookieAuthority.helloVerifyRequestSize
) throws -> [UInt8] {
    try withHello(bytes) { hello in
        [UInt8](unsafeUninitializedCapacity: room) { buffer, count in
            count = peer.withUnsafeBytes { peer in
                local.withUnsafeBytes { local in
                    authority.writeHelloVerifyRequest(
                        answering: hello, peer: peer, local: local, minute: minute,
                        into: UnsafeMutableRawBufferPointer(buffer))
                }
            }
        }
    }
}

private func verify(
    _ bytes: [UInt8], from peer: [UInt8] = peer, at local: [UInt8] = local, minute: Minute = minute,
    by authority: CookieAuthority
) throws -> Bool {
    try withHello(bytes) { hello in
        peer.withUnsafeBytes { peer in
            local.withUnsafeBytes { authority.verify(hello, peer: peer, local: $0, minute: minute) != nil }
        }
    }
}

/// A hello that answers the authority's reply to it, and what a client may not change between the two.
private func answered(_ builder: HelloBuilder, minute: Minute = minute, by authority: CookieAuthority) throws
    -> HelloBuilder
{
    var builder = builder
    builder.cookie = Array(
        try reply(to: builder.bytes, minute: minute, by: authority).suffix(CookieAuthority.cookieSize))
    builder.messageSequence += 1
    builder.recordSequence += 1
    return builder
}

private func fullHello() -> HelloBuilder {
    var builder = HelloBuilder()
    builder.sessionID = [1, 2, 3, 4]
    builder.cipherSuites = [0xc0, 0x2f, 0xc0, 0x30]
    builder.compression = [1, 0]
    builder.rest = [0, 4, 0, 0x17, 0, 0]
    return builder
}

@Suite struct CookieTests {
    let authority: CookieAuthority

    init() throws { authority = try CookieAuthority(secret: secret) }

    @Test func `a cookie is valid for the authority that made it`() throws {
        let hello = try answered(fullHello(), by: authority)
        #expect(try verify(hello.bytes, by: authority))
        #expect(try verify(hello.bytes, by: authority), "a second time: nothing is kept")
        #expect(hello.cookie.first == UInt8(truncatingIfNeeded: minute.number))
    }

    @Test func `a cookie is valid for another authority with the same secret`() throws {
        let hello = try answered(fullHello(), by: authority)
        #expect(try verify(hello.bytes, by: CookieAuthority(secret: secret)))
    }

    @Test(arguments: [CookieAuthority.MAC.sipHash, .hmacSHA256])
    func `cookies of either MAC are valid for those that use it, minute by minute`(_ mac: CookieAuthority.MAC) throws {
        let authority = try CookieAuthority(secret: secret, mac: mac)
        let again = try CookieAuthority(secret: secret, mac: mac)
        for offset in 0..<4 as Range<UInt64> {
            let minute = Minute(number: minute.number + offset, milliseconds: 59_999)
            let hello = try answered(fullHello(), minute: minute, by: authority)
            #expect(try verify(hello.bytes, minute: minute, by: again))
            #expect(try !verify(hello.bytes, from: peer + [0], minute: minute, by: again))
            #expect(try verify(hello.bytes, minute: Minute(number: minute.number + 1), by: again))
            #expect(try !verify(hello.bytes, minute: Minute(number: minute.number + 2), by: again))
        }
    }

    @Test func `a cookie of another MAC is not valid, though the secret is the same`() throws {
        let hello = try answered(fullHello(), by: CookieAuthority(secret: secret, mac: .hmacSHA256))
        #expect(try !verify(hello.bytes, by: CookieAuthority(secret: secret, mac: .sipHash)))
    }

    @Test func `SipHash is used where OpenSSL has it`() throws {
        #expect(authority.mac == .sipHash)
    }

    @Test func `a cookie that was made with another secret is not valid`() throws {
        let hello = try answered(fullHello(), by: authority)
        #expect(try !verify(hello.bytes, by: CookieAuthority(secret: Array(repeating: 8, count: 32))))
    }

    @Test func `a cookie is not valid for another address or port`() throws {
        let hello = try answered(fullHello(), by: authority).bytes
        for index in 0..<peer.count {
            var other = peer
            other[index] ^= 1
            #expect(try !verify(hello, from: other, by: authority), "byte \(index) of the peer's address and port")
            other = local
            other[index] ^= 1
            #expect(try !verify(hello, at: other, by: authority), "byte \(index) of the local address and port")
        }
        #expect(try !verify(hello, from: local, at: peer, by: authority))
    }

    @Test func `bytes cannot move from one address to the other`() throws {
        let hello = try answered(fullHello(), by: authority).bytes
        #expect(try !verify(hello, from: peer + local.prefix(1), at: Array(local.dropFirst()), by: authority))
        #expect(try !verify(hello, from: peer + local, at: [], by: authority))
    }

    @Test(
        arguments: [
            Change("version") { $0.clientVersion = 0xfeff },
            Change("random") { $0.random[0] ^= 1 },
            Change("random's end") { $0.random[31] ^= 1 },
            Change("session id") { $0.sessionID[3] ^= 1 },
            Change("no session id") { $0.sessionID = [] },
            Change("cipher suites") { $0.cipherSuites[3] ^= 1 },
            Change("a cipher suite less") { $0.cipherSuites.removeLast(2) },
            Change("compression") { $0.compression[0] = 2 },
            Change("no compression but null") { $0.compression = [0] },
        ])
    func `a cookie is not valid for a changed hello`(_ change: Change) throws {
        var hello = try answered(fullHello(), by: authority)
        change.apply(&hello)
        #expect(try !verify(hello.bytes, by: authority))
    }

    @Test(
        arguments: [
            // A client may repeat it with other numbers, in fragments, and some clients change extensions (padding).
            Change("record sequence") { $0.recordSequence = 99 },
            Change("message sequence") { $0.messageSequence = 2 },
            Change("record version") { $0.recordVersion = 0xfefd },
            Change("extensions") { $0.rest = [0, 4, 0, 0x16, 0, 0] },
            Change("a first fragment") { $0.fragmentLength = $0.body.count - 6 },
        ])
    func `a cookie is valid whatever it does not cover`(_ change: Change) throws {
        var hello = try answered(fullHello(), by: authority)
        change.apply(&hello)
        #expect(try verify(hello.bytes, by: authority))
    }

    @Test func `a cookie with any bit changed is not valid`() throws {
        let good = try answered(fullHello(), by: authority)
        for bit in 0..<8 * CookieAuthority.cookieSize {
            var hello = good
            hello.cookie[bit / 8] ^= 1 << (bit % 8)
            #expect(try !verify(hello.bytes, by: authority), "bit \(bit)")
        }
    }

    @Test func `a cookie of another length is not valid`() throws {
        let good = try answered(fullHello(), by: authority)
        for count in [0, 1, 18, 20, 32, 255] {
            var hello = good
            hello.cookie = Array((good.cookie + Array(repeating: 0, count: 236)).prefix(count))
            #expect(try !verify(hello.bytes, by: authority), "\(count) bytes")
        }
    }

    // 0 and 1: there is no minute before. 255 and 256: the key number wraps, both ways.
    @Test(arguments: [0, 1, 254, 255, 256, 29_000_000, .max] as [UInt64])
    func `a cookie is valid in its minute and the next`(_ made: UInt64) throws {
        let hello = try answered(fullHello(), minute: Minute(number: made), by: authority).bytes
        #expect(try verify(hello, minute: Minute(number: made), by: authority))
        for age in 1...4 as ClosedRange<UInt64> {
            #expect(
                try verify(hello, minute: Minute(number: made &+ age), by: authority) == (age == 1 && made != .max),
                "age \(age)")
        }
        // The key number is the same again; the key is not.
        #expect(try !verify(hello, minute: Minute(number: made &+ 256), by: authority))
        #expect(try !verify(hello, minute: Minute(number: made &+ 257), by: authority))
        #expect(try !verify(hello, minute: Minute(number: made &- 1), by: authority), "from the future")
        #expect(try verify(hello, minute: Minute(number: made), by: authority), "after all these other minutes")
    }

    @Test(
        arguments: [
            (Minute(number: 9), Minute(number: 9, milliseconds: 40), 40),
            (Minute(number: 255, milliseconds: 59_999), Minute(number: 256, milliseconds: 1), 2),
            (Minute(number: 9, milliseconds: 1), Minute(number: 10, milliseconds: 59_999), 119_998),
            (Minute(number: 9, milliseconds: 700), Minute(number: 9, milliseconds: 700), 0),
            (Minute(number: 9, milliseconds: 700), Minute(number: 9, milliseconds: 699), nil),
        ] as [(made: Minute, now: Minute, took: Int?)])
    func `a verified hello says how long its client took`(_ times: (made: Minute, now: Minute, took: Int?)) throws {
        let hello = try answered(fullHello(), minute: times.made, by: authority)
        let trips = try withHello(hello.bytes) { hello in
            peer.withUnsafeBytes { peer in
                local.withUnsafeBytes { local -> [Duration?] in
                    guard let verified = authority.verify(hello, peer: peer, local: local, minute: times.now) else {
                        return []
                    }
                    let handedOver = VerifiedHello(handedOver: verified.handover, minute: times.now)
                    guard let handedOver else { return [] }
                    return [verified.roundTrip, handedOver.roundTrip]
                }
            }
        }
        let expected: Duration? = times.took.map { .milliseconds($0) }
        #expect(trips == [expected, expected])
    }

    @Test func `cookies are verified whatever order their minutes come in`() throws {
        let hellos = try (0..<6).map {
            try answered(fullHello(), minute: Minute(number: minute.number + $0), by: authority).bytes
        }
        for now in [3, 0, 5, 1, 4, 2, 6, 0] as [UInt64] {
            for (made, hello) in hellos.enumerated() {
                let good = UInt64(made) == now || UInt64(made) + 1 == now
                #expect(
                    try verify(hello, minute: Minute(number: minute.number + now), by: authority) == good,
                    "made in \(made), now \(now)")
            }
        }
    }

    @Test func `a secret that is too short is refused`() throws {
        #expect(throws: CookieError.secretTooShort(15)) { try CookieAuthority(secret: Array(repeating: 1, count: 15)) }
        #expect("\(CookieError.secretTooShort(15))" == "the cookie secret has 15 bytes; it needs 16 or more")
        _ = try CookieAuthority(secret: Array(repeating: 1, count: 16))
    }
}

@Suite struct HelloVerifyRequestTests {
    let authority: CookieAuthority

    init() throws { authority = try CookieAuthority(secret: secret) }

    @Test func `the reply is what RFC 6347 says`() throws {
        var hello = HelloBuilder()
        hello.recordVersion = 0xfefd
        hello.recordSequence = 0x0102_0304_0506
        hello.messageSequence = 3
        let reply = try reply(to: hello.bytes, by: authority)
        let expected: [UInt8] = [
            22, 0xfe, 0xff, 0, 0, 1, 2, 3, 4, 5, 6, 0, 34,
            3, 0, 0, 22, 0, 3, 0, 0, 0, 0, 0, 22,
            0xfe, 0xff, 19,
        ]
        #expect(Array(reply.prefix(28)) == expected)
        #expect(reply.count == 47)
    }

    @Test func `the reply is never larger than the hello`() throws {
        for captured in CapturedHello.hellos {
            let reply = try reply(to: captured.bytes, by: authority)
            #expect(!reply.isEmpty && reply.count <= captured.bytes.count)
        }
        let smallest = HelloBuilder().bytes
        #expect(try reply(to: smallest, by: authority).count <= smallest.count)
    }

    @Test func `there is no reply where the buffer has no room`() throws {
        let size = CookieAuthority.helloVerifyRequestSize
        #expect(try reply(to: HelloBuilder().bytes, by: authority, room: size).count == size)
        #expect(try reply(to: HelloBuilder().bytes, by: authority, room: size - 1).isEmpty)
        #expect(try reply(to: HelloBuilder().bytes, by: authority, room: 0).isEmpty)
    }

    @Test func `the reply differs by peer and is the same for the same peer`() throws {
        let hello = HelloBuilder().bytes
        #expect(try reply(to: hello, by: authority) == reply(to: hello, by: authority))
        #expect(try reply(to: hello, by: authority) != reply(to: hello, from: peer + [0], by: authority))
    }

    @Test(arguments: Client.all)
    func `real clients return the cookie`(_ client: Client) throws {
        let server = try LoopbackServer()
        let process = try client.run(port: server.port)
        defer { process.stop() }
        var sent: [UInt8] = []
        // A client may repeat its first hello; only the one with a cookie ends this.
        while true {
            let (datagram, from) = try server.receive()
            // A later fragment is none, and may come first.
            let hello = try? withHello(datagram) { (cookie: Array($0.cookie), sequence: $0.messageSequence) }
            guard let hello else { continue }
            if hello.cookie.isEmpty {
                sent = try reply(to: datagram, from: from, by: authority)
                try server.send(sent, to: from)
            } else {
                #expect(hello.cookie == Array(sent.suffix(CookieAuthority.cookieSize)))
                #expect(hello.sequence == 1)
                #expect(try verify(datagram, from: from, by: authority))
                return
            }
        }
    }
}

/// The proof that a cookie was verified, in this process and in another.
@Suite struct VerifiedHelloTests {
    private func verified(_ builder: HelloBuilder) throws -> VerifiedHello {
        let authority = try CookieAuthority(secret: secret)
        let hello = try answered(builder, by: authority)
        return try withHello(hello.bytes) { hello in
            var proof: VerifiedHello?
            peer.withUnsafeBytes { peer in
                local.withUnsafeBytes { local in
                    proof = authority.verify(hello, peer: peer, local: local, minute: minute)
                }
            }
            guard let proof = proof.take() else { throw NoProof() }
            return proof
        }
    }

    private struct NoProof: Error {}

    @Test(arguments: [0, 1, 7] as [UInt16])
    func `a hello that is handed over is the one that was verified`(_ sequence: UInt16) throws {
        var builder = HelloBuilder()
        builder.messageSequence = sequence
        builder.recordSequence = 0x0102_0304_0506
        let hello = try verified(builder)
        let copy = VerifiedHello(handedOver: hello.handover)
        guard let copy else {
            Issue.record("the hello did not arrive")
            return
        }
        #expect(copy.random == hello.random)
        #expect(copy.messageSequence == hello.messageSequence)
        #expect(copy.recordSequence == hello.recordSequence)
        #expect(copy.datagram == hello.datagram)
    }

    @Test func `a hello that is handed over is no hello however short it is cut`() throws {
        let bytes = try verified(HelloBuilder()).handover
        for count in 0..<bytes.count {
            let isHello = VerifiedHello(handedOver: Array(bytes.prefix(count))) != nil
            #expect(!isHello, "the first \(count) bytes")
        }
    }

    @Test func `a hello that is handed over traps for no wrong bit`() throws {
        let bytes = try verified(HelloBuilder()).handover
        for bit in 0..<bytes.count * 8 {
            var bytes = bytes
            bytes[bit / 8] ^= 1 << (bit % 8)
            let isHello = VerifiedHello(handedOver: bytes) != nil
            if [0, 1, 3, 4, 13].contains(bit / 8) { #expect(!isHello, "bit \(bit)") }
        }
    }
}

/// The numbers of a server's first records (RFC 6347, section 4.2.1).
@Suite struct RecordNumberTests {
    let certificates: TestCertificates

    init() throws { certificates = try TestCertificates.make() }

    private func makePair(_ client: ClientSettings) throws -> EnginePair {
        try EnginePair(
            client: client,
            server: ServerSettings(
                certificate: certificates.rsaServer.certificate, privateKey: certificates.rsaServer.privateKey))
    }

    /// Has the client's records arrive with numbers far ahead, as those of one that has sent many.
    /// - Returns: the numbers of its hellos after the first, when the handshake has been done.
    private func handshakeWithNumbersAhead(_ pair: EnginePair) -> [UInt64] {
        let hellos = Numbers()
        pair.wire.interfere = { _, side, datagram in
            guard side == .server else { return [.init(datagram)] }
            var changed = datagram
            changed.withUnsafeMutableBytes { MutableRecord.renumber($0, by: 1 << 24) }
            changed.withUnsafeBytes { bytes in
                guard ClientHello.couldBePart(of: bytes), let record = Record(of: bytes) else { return }
                hellos.list.append(record.sequenceNumber)
            }
            return [.init(changed)]
        }
        pair.handshake()
        return hellos.list
    }

    private final class Numbers { var list: [UInt64] = [] }

    /// The records in plain text that the client was sent, the requests for cookies left out.
    private func answers(_ pair: EnginePair) -> [(type: ContentType, number: UInt64)] {
        pair.wire.sent.filter { $0.side == .client }.flatMap { _, datagram in
            datagram.withUnsafeBytes { bytes in
                Records(of: bytes).filter { !$0.isProtected && $0.fragment.first != 3 }
                    .map { ($0.contentType, $0.sequenceNumber) }
            }
        }
    }

    @Test(arguments: [0, 1, 3])
    func `a server's records go on from the number of the hello, however often it asked for a cookie`(
        _ refused: Int
    ) throws {
        let pair = try makePair(ClientSettings(certificateAuthorities: certificates.authority))
        pair.cookiesToRefuse = refused
        let hellos = handshakeWithNumbersAhead(pair)
        #expect(pair.client.isEstablished && pair.server.isEstablished)
        try #require(hellos.count == refused + 1)
        let number = hellos[refused]
        let numbers = answers(pair).map(\.number)
        #expect(number >= 1 << 24)
        #expect(numbers.count > 3)
        #expect(numbers == (0..<UInt64(numbers.count)).map { number + $0 })
    }

    /// A client that is asked twice drops a record with a lower number as a replay, and would never learn the reason.
    @Test func `a refusal has the number of the hello`() throws {
        let pair = try makePair(
            ClientSettings(
                rejectUnauthorized: false, ciphers: "ALL:@SECLEVEL=0", minimumVersion: .dtls10,
                maximumVersion: .dtls10))
        pair.cookiesToRefuse = 1
        let hellos = handshakeWithNumbersAhead(pair)
        #expect(pair.server.error != nil)
        let answers = answers(pair)
        #expect(answers.map(\.type) == [.alert])
        #expect(answers.map(\.number) == hellos.dropFirst(1).prefix(1).map(\.self))
    }
}
