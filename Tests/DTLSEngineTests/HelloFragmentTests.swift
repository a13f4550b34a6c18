import DTLSEngine
import Primitives
import TestSupport
import Testing
import VirtualClock

/// ClientHellos in pieces, of unknown versions, and after more than one question for a cookie.
@Suite struct HelloFragmentTests {
    let certificates: TestCertificates

    init() throws { certificates = try TestCertificates.make() }

    private var server: ServerSettings {
        ServerSettings(
            certificate: certificates.ecdsaServer.certificate, privateKey: certificates.ecdsaServer.privateKey)
    }

    private func makePair(_ conditions: WireConditions = .perfect, seed: UInt64 = 1) throws -> EnginePair {
        try EnginePair(
            client: ClientSettings(certificateAuthorities: certificates.authority), server: server,
            conditions: conditions, seed: seed)
    }

    /// How a hello is cut up.
    enum Cut: String, CaseIterable, Sendable {
        case oneDatagramManyRecords
        case oneRecordManyFragments
        /// Each fragment repeats some bytes of the one before it.
        case overlapping
        /// Large enough for the first to reach the compression methods, so that the others may come by themselves.
        case manyDatagrams
    }

    /// The hello of one datagram in fragments of `size` bytes.
    static func cut(_ hello: [UInt8], _ cut: Cut, size: Int) -> [[UInt8]] {
        let body = Array(hello[25...])
        let overlap = cut == .overlapping ? size / 2 : 0
        var fragments: [[UInt8]] = []
        var offset = 0
        while offset < body.count {
            let start = max(0, offset - overlap)
            let part = body[start..<min(offset + size, body.count)]
            fragments.append(
                Array(hello[13..<19]) + bigEndian(start, 3) + bigEndian(part.count, 3) + part)
            offset += size
        }
        func record(_ content: [UInt8], _ number: Int) -> [UInt8] {
            Array(hello[..<10]) + [hello[10] &+ UInt8(truncatingIfNeeded: number)] + bigEndian(content.count, 2)
                + content
        }
        let records = fragments.enumerated().map { record($1, $0) }
        return switch cut {
        case .oneDatagramManyRecords, .overlapping: [records.flatMap(\.self)]
        case .oneRecordManyFragments: [record(fragments.flatMap(\.self), 0)]
        case .manyDatagrams: records
        }
    }

    private static func bigEndian(_ value: Int, _ count: Int) -> [UInt8] {
        (0..<count).map { UInt8(truncatingIfNeeded: value >> (8 * (count - 1 - $0))) }
    }

    /// Makes room between the numbers of the records of epoch 0.
    private static func spreadNumbers(_ datagram: [UInt8]) -> [UInt8] {
        var datagram = datagram
        var record = 0
        while record + 13 <= datagram.count {
            if datagram[record + 4] == 0 { datagram[record + 10] *= 16 }
            record += 13 + (Int(datagram[record + 11]) << 8 | Int(datagram[record + 12]))
        }
        return datagram
    }

    @Test(arguments: Cut.allCases, [7, 20, 100])
    func `a handshake begins with a hello in pieces`(_ cut: Cut, size: Int) throws {
        let size = cut == .manyDatagrams ? size + 120 : size
        let pair = try makePair()
        pair.wire.interfere = { _, side, datagram in
            guard side == .server else { return [.init(datagram)] }
            let datagram = Self.spreadNumbers(datagram)
            guard datagram[0] == 22, datagram[13] == 1 else { return [.init(datagram)] }
            return Self.cut(datagram, cut, size: size).enumerated().map { .init($1, later: Int64($0)) }
        }
        pair.handshake()
        #expect(pair.client.error == nil && pair.server.error == nil)
        try #require(pair.client.isEstablished && pair.server.isEstablished)
        // Nothing had to be sent again.
        #expect(pair.elapsed < 1_000_000)
    }

    /// What does not belong to a hello ends it, and is not read past.
    @Test func `only fragments of one message are joined`() {
        let hello = CapturedHello.openSSLServerName.bytes
        let whole = Self.cut(hello, .oneDatagramManyRecords, size: 50)[0]
        let fragments = HelloFragments()
        func join(_ bytes: [UInt8]) -> [UInt8] {
            bytes.withUnsafeBytes { Array(fragments.join($0)) }
        }
        #expect(join(whole) == hello)
        #expect(join(whole + [1, 2, 3]) == hello)
        // Nothing to join: the same bytes.
        for bytes in [[], [22], hello, hello + hello, Array(whole.prefix(75)), Array(whole.prefix(100))] {
            #expect(join(bytes) == bytes)
        }
        // A fragment of another message, of another type, of another epoch, or with a gap before it.
        let first = Array(whole.prefix(75))
        let second = Array(whole[75..<150])
        #expect(join(first + second).count == 125)
        for (position, value) in [(0, 23), (1, 3), (4, 1), (13, 2), (16, 9), (18, 7), (21, 51), (24, 51)]
            as [(Int, UInt8)]
        {
            var other = second
            other[position] = value
            #expect(join(first + other) == first + other, "byte \(position)")
        }
        // Cut off anywhere.
        for count in 0..<whole.count { _ = join(Array(whole.prefix(count))) }
    }

    /// 60,000 bytes of one datagram say that they are one hello: there is room for one record's worth.
    @Test func `a joined hello fits one record`() throws {
        let body = HelloBuilder(rest: [0, 0]).body
        let total = 60_000
        var datagram: [UInt8] = []
        for offset in stride(from: 0, to: total, by: 5_000) {
            let part = (body + [UInt8](repeating: 0, count: total))[offset..<(offset + 5_000)]
            let message =
                [1] + Self.bigEndian(total, 3) + [0, 0] + Self.bigEndian(offset, 3) + Self.bigEndian(5_000, 3) + part
            datagram += [22, 0xfe, 0xff] + [UInt8](repeating: 0, count: 8) + Self.bigEndian(message.count, 2) + message
        }
        let joined = datagram.withUnsafeBytes { HelloFragments().join($0).count }
        #expect(joined == 15_025)
    }

    /// A cookie that has become too old: the client is asked again, counts on, and is let in.
    @Test(arguments: [1, 2, 5], [0, 20])
    func `a client that is asked for a cookie again gets through`(times: Int, loss: Int) throws {
        for seed in 1...(loss == 0 ? 1 : 10) as ClosedRange<UInt64> {
            let pair = try makePair(WireConditions(loss: loss), seed: seed)
            pair.cookiesToRefuse = times
            pair.handshake()
            let note: Comment = "seed \(seed)"
            #expect(pair.client.error == nil && pair.server.error == nil, note)
            try #require(pair.client.isEstablished && pair.server.isEstablished, note)
            if loss == 0 { #expect(pair.elapsed < 1_000_000) }
            try pair.send([1], from: .client)
            try pair.send([2], from: .server)
            pair.wire.conditions = .perfect
            pair.run()
        }
    }

    /// What an engine says at first to a hello.
    private func answer(to hello: [UInt8]) throws -> [UInt8] {
        let bio = try DatagramBIO()
        guard let hello = VerifiedHello(handedOver: hello) else { throw NotAHello() }
        let engine = try Engine(accepting: ServerContext(server), over: bio, payloadSize: 1_372, hello: hello)
        _ = try? engine.next(now: .distantPast)
        return bio.outbox.withDatagrams { bytes, sizes in Array(bytes[..<(sizes.first ?? 0)]) }
    }

    /// GREASE (RFC 8701): values that nobody knows, in every place that has a list.
    private static let extensions: [UInt8] = [
        0x1a, 0x1a, 0, 0,  // an unknown extension
        0, 10, 0, 6, 0, 4, 0x2a, 0x2a, 0, 23,  // groups: unknown, P-256
        0, 13, 0, 6, 0, 4, 0x3a, 0x3a, 4, 3,  // signatures: unknown, ecdsa_secp256r1_sha256
        0xff, 1, 0, 1, 0,  // renegotiation_info
        0x4a, 0x4a, 0, 1, 0,  // another unknown one
    ]

    private func unusual(_ change: (inout HelloBuilder) -> Void) -> [UInt8] {
        var hello = HelloBuilder()
        hello.messageSequence = 1
        hello.recordSequence = 20
        hello.cookie = [1, 2, 3]
        hello.cipherSuites = [0x0a, 0x0a, 0xc0, 0x2b]
        hello.rest = [UInt8(Self.extensions.count >> 8), UInt8(Self.extensions.count & 0xff)] + Self.extensions
        change(&hello)
        return hello.bytes
    }

    @Test(
        arguments: [
            Change("unknown suites, groups, signatures and extensions") { _ in },
            Change("record version 1.2") { $0.recordVersion = 0xfefd },
            Change("record version 1.0") { $0.recordVersion = 0xfeff },
            Change("record version 1.3") { $0.recordVersion = 0xfefc },
            Change("client version 1.3") { $0.clientVersion = 0xfefc },
            Change("client version of some day") { $0.clientVersion = 0xfe00 },
            Change("a session id that nobody knows") { $0.sessionID = [UInt8](repeating: 9, count: 32) },
            Change("unknown compression") { $0.compression = [0x7a, 0] },
            Change("never counts") { $0.messageSequence = 0 },
            Change("asked 16 times") { $0.messageSequence = 16 },
        ])
    func `an unusual hello gets a ServerHello`(_ change: Change) throws {
        var sequence: UInt16 = 0
        let hello = unusual {
            change.apply(&$0)
            sequence = $0.messageSequence
        }
        let answer = try answer(to: hello)
        try #require(answer.count > 30)
        // A handshake record of epoch 0 with the number of the hello's, in it a ServerHello that counts as the hello
        // does.
        #expect(answer[0] == 22)
        #expect(Array(answer[3..<11]) == [0, 0, 0, 0, 0, 0, 0, 20])
        #expect(answer[13] == 2)
        #expect(Array(answer[17..<19]) == [0, UInt8(sequence)])
        #expect(Array(answer[25..<27]) == [0xfe, 0xfd])
    }

    @Test func `a client that has been asked for a cookie too often is refused`() throws {
        #expect(throws: OpenSSLError.self) { try answer(to: unusual { $0.messageSequence = 17 }) }
        #expect(throws: OpenSSLError.self) { try answer(to: unusual { $0.messageSequence = 65_535 }) }
    }

    @Test func `an old version is refused with the right alert`() throws {
        // protocol_version, fatal (RFC 5246, section 7.2)
        let alert = try answer(to: unusual { $0.clientVersion = 0xfeff })
        #expect(alert[0] == 21)
        #expect(Array(alert.suffix(2)) == [2, 70])
    }
}
