import DTLSEngine
import Testing

/// An outcome without its hello, so that it can be compared.
private enum Verdict: Equatable {
    case hello
    case notClientHello
    case malformed
}

/// Takes what is read, so that the compiler does not leave the reading out.
private nonisolated(unsafe) var blackHole: UInt8 = 0

private func verdict(_ bytes: some Collection<UInt8>) -> Verdict {
    withGuardedBytes(bytes) { datagram in
        switch ClientHello.parse(datagram) {
        case .hello(let hello):
            // Every byte that the hello points to is read: a byte outside of the datagram crashes the test.
            for field in [hello.random, hello.sessionID, hello.cookie] { blackHole = field.reduce(0, &+) }
            return hello.random.count == 32 ? .hello : .malformed
        case .notClientHello: return .notClientHello
        case .malformed: return .malformed
        }
    }
}

private func couldBePart(_ bytes: [UInt8]) -> Bool { withGuardedBytes(bytes) { ClientHello.couldBePart(of: $0) } }

/// Calls `body` with the hello, which must be one.
func withHello<Result: ~Copyable>(_ bytes: [UInt8], _ body: (ClientHello) throws -> Result) throws -> Result {
    try withGuardedBytes(bytes) { datagram in
        guard case .hello(let hello) = ClientHello.parse(datagram) else { throw NotAHello() }
        return try body(hello)
    }
}

struct NotAHello: Error {}

@Suite struct ClientHelloTests {
    @Test func `every field is read`() throws {
        var builder = HelloBuilder()
        builder.recordVersion = 0xfefd
        builder.recordSequence = 0x0102_0304_0506
        builder.messageSequence = 0x0708
        builder.sessionID = [1, 2, 3]
        builder.cookie = [4, 5]
        builder.rest = [0, 4, 0xff, 0xff, 0, 0]
        try withHello(builder.bytes) { hello in
            #expect(hello.recordVersion == 0xfefd)
            #expect(hello.recordSequence == 0x0102_0304_0506)
            #expect(hello.messageSequence == 0x0708)
            #expect(hello.clientVersion == 0xfefd)
            #expect(hello.isComplete)
            #expect(Array(hello.random) == builder.random)
            #expect(Array(hello.sessionID) == [1, 2, 3])
            #expect(Array(hello.cookie) == [4, 5])
            #expect(hello.datagram.count == builder.bytes.count)
        }
    }

    @Test(arguments: CapturedHello.hellos)
    func `the hellos of real clients are read`(_ captured: CapturedHello) throws {
        #expect(couldBePart(captured.bytes))
        try withHello(captured.bytes) { hello in
            #expect(hello.recordVersion == 0xfeff)
            #expect(hello.clientVersion == (captured.rawValue.hasSuffix("10") ? 0xfeff : 0xfefd))
            #expect(hello.isComplete == !captured.rawValue.contains("Fragment"))
            #expect(hello.sessionID.isEmpty)
            #expect(hello.cookie.isEmpty == (hello.messageSequence == 0))
            if !hello.cookie.isEmpty { #expect(Array(hello.cookie) == Array(0..<32)) }
            #expect(Array(hello.random) == Array(captured.bytes[27..<59]))
        }
    }

    @Test(arguments: [CapturedHello.openSSLSecondFragment, .gnuTLSSecondFragment])
    func `a later fragment is not a hello but part of one`(_ captured: CapturedHello) {
        #expect(verdict(captured.bytes) == .notClientHello)
        #expect(couldBePart(captured.bytes))
    }

    @Test func `the random is comparable without the datagram`() throws {
        let first = try withHello(CapturedHello.gnuTLS.bytes) { $0.randomValue }
        let again = try withHello(CapturedHello.gnuTLSWithCookie.bytes) { $0.randomValue }
        let other = try withHello(CapturedHello.openSSL.bytes) { $0.randomValue }
        #expect(first == again)
        #expect(first.hashValue == again.hashValue)
        #expect(first != other)
        for index in 0..<32 {
            var builder = HelloBuilder()
            let plain = try withHello(builder.bytes) { $0.randomValue }
            builder.random[index] ^= 1
            #expect(try withHello(builder.bytes) { $0.randomValue } != plain)
        }
    }

    @Test(arguments: CapturedHello.allCases)
    func `a hello that is cut off at any byte is not one`(_ captured: CapturedHello) {
        let bytes = captured.bytes
        for count in 0..<bytes.count { #expect(verdict(bytes.prefix(count)) != .hello, "the first \(count) bytes") }
    }

    @Test(arguments: CapturedHello.allCases)
    func `no bit flip traps`(_ captured: CapturedHello) {
        for bit in 0..<captured.bytes.count * 8 {
            var bytes = captured.bytes
            bytes[bit / 8] ^= 1 << (bit % 8)
            // Which of the three it is depends on the bit; the headers' first ones decide that it is no hello at all.
            let found = verdict(bytes)
            if [0, 1, 3, 4, 13].contains(bit / 8) { #expect(found == .notClientHello, "bit \(bit)") }
        }
    }

    @Test func `the smallest hello is accepted`() {
        let builder = HelloBuilder()
        #expect(builder.bytes.count == 67)
        #expect(verdict(builder.bytes) == .hello)
    }

    @Test func `a first fragment is enough if it reaches the compression methods`() throws {
        var builder = HelloBuilder()
        let needed = builder.body.count
        builder.rest = [0, 4, 0xff, 0xff, 0, 0]
        for length in 0...builder.body.count {
            builder.fragmentLength = length
            #expect(verdict(builder.bytes) == (length >= needed ? .hello : .malformed), "\(length) bytes")
        }
        builder.fragmentLength = needed
        #expect(try withHello(builder.bytes) { !$0.isComplete })
    }

    @Test func `later fragments have an offset`() {
        var builder = HelloBuilder()
        builder.fragmentOffset = 10
        #expect(verdict(builder.bytes) == .notClientHello)
        builder.claimedMessageLength = 20
        #expect(verdict(builder.bytes) == .malformed)
    }

    @Test(arguments: [0xfeff, 0xfefd, 0xfefc, 0xfe00] as [UInt16])
    func `every DTLS version is accepted whether it is known or not`(_ version: UInt16) {
        var builder = HelloBuilder()
        builder.recordVersion = version
        builder.clientVersion = version
        #expect(verdict(builder.bytes) == .hello)
    }

    @Test func `unknown suites and compression methods and extensions are accepted`() {
        var builder = HelloBuilder()
        builder.cipherSuites = [0xfa, 0xfa, 0xff, 0xff]
        builder.compression = [0xee, 0]
        builder.rest = [0, 9, 0xfa, 0xfa, 0, 1, 0, 0xff, 0x77, 0, 0]
        #expect(verdict(builder.bytes) == .hello)
    }

    @Test(
        arguments: [
            Change("application data") { $0.recordType = 23 },
            Change("TLS") { $0.recordVersion = 0x0301 },
            Change("encrypted") { $0.epoch = 1 },
            Change("a far epoch") { $0.epoch = 0x0100 },
            Change("a Finished") { $0.handshakeType = 20 },
        ])
    func `anything else is not a ClientHello`(_ change: Change) {
        var builder = HelloBuilder()
        change.apply(&builder)
        #expect(verdict(builder.bytes) == .notClientHello)
        #expect(!couldBePart(builder.bytes))
    }

    @Test(
        arguments: [
            Change("no TLS version in DTLS") { $0.clientVersion = 0x0303 },
            Change("session id of 33 bytes") { $0.sessionID = Array(repeating: 1, count: 33) },
            Change("no cipher suite") { $0.cipherSuites = [] },
            Change("half a cipher suite") { $0.cipherSuites = [0xc0, 0x2f, 0xc0] },
            Change("no compression method") { $0.compression = [] },
            Change("one byte after the compression methods") { $0.rest = [0] },
            Change("extensions shorter than they say") { $0.rest = [0, 1] },
            Change("extensions longer than they say") { $0.rest = [0, 0, 0] },
            Change("record longer than the datagram") { $0.claimedRecordLength = 55 },
            Change("record longer than a record") { $0.claimedRecordLength = 16_385 },
            Change("record too short for a message") { $0.claimedRecordLength = 11 },
            Change("record shorter than the message") { $0.claimedRecordLength = 53 },
            Change("fragment longer than the message") { $0.claimedMessageLength = 41 },
            Change("fragment longer than the record") { $0.claimedFragmentLength = 43 },
            Change("message longer than its content") { $0.claimedMessageLength = 43 },
        ])
    func `contradictions are malformed`(_ change: Change) {
        var builder = HelloBuilder()
        change.apply(&builder)
        #expect(verdict(builder.bytes) == .malformed)
    }

    @Test func `the longest fields are accepted`() {
        var builder = HelloBuilder()
        builder.sessionID = Array(repeating: 1, count: 32)
        builder.cookie = Array(repeating: 2, count: 255)
        builder.cipherSuites = Array(repeating: 3, count: 1000)
        builder.compression = Array(repeating: 4, count: 255)
        #expect(verdict(builder.bytes) == .hello)
    }

    @Test func `what follows the first record does not matter`() {
        #expect(verdict(HelloBuilder().bytes + [22, 0xfe, 0xff, 0, 0]) == .hello)
        #expect(verdict(HelloBuilder().bytes + CapturedHello.openSSL.bytes) == .hello)
    }

    // MARK: Versions

    /// supported_versions behind another extension, and how much of the hello is there.
    @Test(
        arguments: [
            ([0x00, 0x2b, 0x00, 0x03, 0x02, 0xfe, 0xfc], true),
            ([0x00, 0x2b, 0x00, 0x05, 0x04, 0xfe, 0xfc, 0x0a, 0x0a], true),
            ([0x00, 0x2b, 0x00, 0x05, 0x04, 0xfe, 0xfc, 0xfe, 0xfd], false),
            ([0x00, 0x2b, 0x00, 0x05, 0x04, 0xfe, 0xff, 0xfe, 0xfc], false),
            // Lengths that contradict each other are OpenSSL's business.
            ([0x00, 0x2b, 0x00, 0x03, 0x04, 0xfe, 0xfc], false), ([0x00, 0x2b, 0x00, 0x01, 0x00], false),
            ([0x00, 0x2b, 0x00, 0x00], false), ([0x00, 0x2b, 0x00, 0x09, 0x02, 0xfe, 0xfc], false),
        ] as [([UInt8], Bool)])
    func `a hello without a known version is told by its extension`(_ versions: [UInt8], _ isUnknown: Bool) {
        let extensions: [UInt8] = [0x00, 0x0b, 0x00, 0x02, 0x01, 0x00] + versions
        var builder = HelloBuilder()
        builder.rest = [0, UInt8(extensions.count)] + extensions
        expect(builder.bytes, isUnknown)
        // A first fragment that ends before the extension does says nothing.
        for length in (builder.body.count - versions.count)..<builder.body.count {
            builder.fragmentLength = length
            expect(builder.bytes, false)
        }
    }

    private func expect(_ bytes: [UInt8], _ isUnknown: Bool) {
        bytes.withUnsafeBytes { datagram in
            guard case .hello(let hello) = ClientHello.parse(datagram) else {
                Issue.record("this is no hello")
                return
            }
            #expect(hello.offersNoKnownVersion == isUnknown)
        }
    }

    // MARK: Sessions

    private static let name = (1...16).map { UInt8($0) }

    /// session_ticket behind another extension.
    @Test(
        arguments: [
            ([], [], nil), ([], [UInt8](repeating: 9, count: 32), [UInt8](repeating: 9, count: 16)),
            ([], [UInt8](repeating: 9, count: 15), nil),
            ([0x00, 0x23, 0x00, 0x00], [UInt8](repeating: 9, count: 16), [UInt8](repeating: 9, count: 16)),
            ([0x00, 0x23, 0x00, 0x0f] + name.dropLast(), [], nil), ([0x00, 0x23, 0x00, 0x10] + name, [], name),
            ([0x00, 0x23, 0x00, 0x12] + name + [8, 8], [UInt8](repeating: 9, count: 32), name),
            // One that is longer than what there is.
            ([0x00, 0x23, 0x00, 0x11] + name, [], nil), ([0x00, 0x23, 0xff, 0xff], [], nil),
        ] as [([UInt8], [UInt8], [UInt8]?)])
    func `what a client wants to resume is told by its ticket, or its session ID`(
        _ ticket: [UInt8], _ id: [UInt8], _ expected: [UInt8]?
    ) throws {
        let extensions: [UInt8] = [0x00, 0x0b, 0x00, 0x02, 0x01, 0x00] + ticket
        var builder = HelloBuilder()
        builder.sessionID = id
        builder.rest = [0, UInt8(extensions.count)] + extensions
        try withHello(builder.bytes) { hello in
            #expect(hello.offeredSession.map { $0.withBytes { [UInt8]($0) } } == expected)
        }
        // Fragments that end before the ticket does.
        for length in (builder.body.count - ticket.count)..<builder.body.count {
            builder.fragmentLength = length
            try withHello(builder.bytes) { hello in
                let found = hello.offeredSession.map { $0.withBytes { [UInt8]($0) } }
                #expect(found == (id.count >= 16 ? Array(id.prefix(16)) : nil))
            }
        }
    }
}
