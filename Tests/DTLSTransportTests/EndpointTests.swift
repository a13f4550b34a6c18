import DTLSEngine
import LinuxSystem
import Primitives
import TestSupport
import Testing

@testable import DTLSTransport

/// What an endpoint decides about every kind of datagram.
@Suite struct EndpointTests {
    private let cookies: CookieAuthority
    private let fragments = HelloFragments()
    private let flow: FlowKey
    private let hello = ClientHelloBytes()
    private let start = Instant(nanoseconds: 1_000_000_000_000)
    private let minute = Minute(number: 30_000_000)

    init() throws {
        cookies = try CookieAuthority(secret: Array(0..<32))
        flow = FlowKey(
            peer: try #require(SocketAddress("192.0.2.1:40000")), local: try #require(SocketAddress("192.0.2.2:4433")))
    }

    /// An action without what it points to.
    private enum Decision: Equatable {
        case reply([UInt8])
        case refuse([UInt8])
        case admit(datagram: [UInt8], isHello: Bool)
        case forward(UInt64)
        case recordOfConnection
        case recordWithConnectionID([UInt8])
        case drop(Endpoint.DropReason)
    }

    private func decide(
        _ endpoint: inout Endpoint, _ datagram: [UInt8], flow other: FlowKey? = nil, now: Instant? = nil,
        minute later: Minute? = nil
    ) -> Decision {
        datagram.withUnsafeBytes { bytes in
            switch endpoint.receive(bytes, other ?? flow, now: now ?? start, minute: later ?? minute, fragments) {
            case .reply(let request):
                var reply: [UInt8] = []
                request.withDatagram { reply = [UInt8]($0) }
                return .reply(reply)
            case .refuse(let alert):
                var reply: [UInt8] = []
                alert.withDatagram { reply = [UInt8]($0) }
                return .refuse(reply)
            case .admit(.hello(let hello)): return .admit(datagram: hello.handover, isHello: true)
            case .admit(.plain(let datagram)): return .admit(datagram: [UInt8](datagram), isHello: false)
            case .forward(let connection): return .forward(connection)
            case .recordOfConnection: return .recordOfConnection
            case .recordWithConnectionID(let id): return .recordWithConnectionID(id.bytes)
            case .drop(let reason): return .drop(reason)
            }
        }
    }

    private func cookie(_ endpoint: inout Endpoint) throws -> [UInt8] {
        guard case .reply(let reply) = decide(&endpoint, hello.bytes()),
            case .helloVerifyRequest(let cookie) = HelloAnswer(reply)
        else { throw NoCookie() }
        return cookie
    }

    private struct NoCookie: Error {}

    private func admit(_ endpoint: inout Endpoint, as connection: UInt64, now: Instant? = nil) throws -> [UInt8] {
        let datagram = hello.bytes(cookie: try cookie(&endpoint), number: 1)
        #expect(decide(&endpoint, datagram, now: now) == .admit(datagram: datagram, isHello: true))
        let random: ClientRandom? = datagram.withUnsafeBytes {
            if case .hello(let hello) = ClientHello.parse($0) { hello.randomValue } else { nil }
        }
        #expect(random != nil)
        endpoint.admitted(random, flow, as: connection, now: now ?? start)
        return datagram
    }

    // MARK: Connection IDs

    /// A record as RFC 9146, section 4, describes it, whose connection ID tells its own length.
    private func record(_ id: [UInt8], epoch: UInt8 = 1, type: UInt8 = 25, version: UInt8 = 0xfd) -> [UInt8] {
        [type, 0xfe, version, 0, epoch, 0, 0, 0, 0, 0, 7] + id + [0, 2, 1, 2]
    }

    @Test func `a record with a connection ID is of its connection, whatever flow was admitted lately`() throws {
        var endpoint = Endpoint(.cookies(cookies))
        let id: [UInt8] = [0xc9] + Array(1...9)
        #expect(decide(&endpoint, record(id)) == .recordWithConnectionID(id))
        _ = try admit(&endpoint, as: 5)
        #expect(decide(&endpoint, record(id)) == .recordWithConnectionID(id))
        let longest: [UInt8] = [0xff] + Array(1...31)
        #expect(decide(&endpoint, record(longest)) == .recordWithConnectionID(longest))
        // Where nobody has it, it is asked who was admitted from there.
        #expect(endpoint.recentConnection(of: flow, now: start) == 5)
        #expect(endpoint.recentConnection(of: flow, now: start + .seconds(3)) == nil)
        #expect(endpoint.counters.unrelated == 0)
    }

    /// The last flight of a client: ClientKeyExchange and ChangeCipherSpec in the clear, then Finished.
    @Test func `a connection ID is found behind the records of a flight that have none`() throws {
        var endpoint = Endpoint(.cookies(cookies))
        let plain: [UInt8] =
            [22, 0xfe, 0xfd, 0, 0, 0, 0, 0, 0, 0, 2, 0, 3, 16, 0, 0] + [
                20, 0xfe, 0xfd, 0, 0, 0, 0, 0, 0, 0, 3, 0, 1, 1,
            ]
        let id: [UInt8] = [0xc9] + Array(1...9)
        #expect(decide(&endpoint, plain + record(id)) == .recordWithConnectionID(id))
        #expect(decide(&endpoint, plain) == .drop(.unrelated))
        // The record before says that it goes on where the datagram ends.
        var broken = plain
        broken[12] = 200
        #expect(decide(&endpoint, broken + record(id)) == .drop(.unrelated))
    }

    @Test func `what only looks like a record with a connection ID is none`() throws {
        var endpoint = Endpoint(.cookies(cookies))
        let id: [UInt8] = [0xc9] + Array(1...9)
        #expect(decide(&endpoint, record(id, epoch: 0)) == .drop(.unrelated))
        #expect(decide(&endpoint, record(id, type: 23)) != .recordWithConnectionID(id))
        let whole = record(id)
        // Up to where the connection ID and the length end.
        for count in 0..<23 {
            #expect(decide(&endpoint, Array(whole[..<count])) != .recordWithConnectionID(id), "\(count)")
        }
    }

    // MARK: Versions

    /// What a client with DTLS 1.3 alone says (RFC 9147, section 5.3): DTLS 1.2 in its hello, 1.3 in
    /// supported_versions.
    @Test func `a hello with DTLS 1.3 alone gets an alert, with a cookie too, and nothing is kept of it`() throws {
        var endpoint = Endpoint(.cookies(cookies))
        let alert: [UInt8] = [21, 0xfe, 0xfd, 0, 0, 0, 0, 0, 0, 0, 5, 0, 2, 2, 70]
        #expect(decide(&endpoint, hello.bytes(number: 5, versions: [0xfefc])) == .refuse(alert))
        let cookie = try cookie(&endpoint)
        #expect(decide(&endpoint, hello.bytes(cookie: cookie, number: 5, versions: [0xfefc])) == .refuse(alert))
        #expect(alert.count < hello.bytes().count)
        #expect(endpoint.counters.refused[.version] == 2)
        #expect(endpoint.counters.hellosAnswered == 1)
        #expect(endpoint.counters.admitted == 0)
    }

    @Test(arguments: [[0xfefc, 0xfefd], [0xfefd], [0xfeff, 0xfefc], []] as [[UInt16]])
    func `a hello that offers a known version too is asked for its cookie`(_ versions: [UInt16]) {
        var endpoint = Endpoint(.cookies(cookies))
        guard case .reply = decide(&endpoint, hello.bytes(versions: versions)) else {
            Issue.record("the hello was not answered")
            return
        }
        #expect(endpoint.counters.refused[.version] == 0)
    }

    // MARK: Cookies

    @Test func `a hello without a cookie is answered with one, in fewer bytes`() throws {
        var endpoint = Endpoint(.cookies(cookies))
        guard case .reply(let reply) = decide(&endpoint, hello.bytes()) else {
            Issue.record("the hello was not answered")
            return
        }
        #expect(reply.count < hello.bytes().count)
        guard case .helloVerifyRequest(let cookie) = HelloAnswer(reply) else {
            Issue.record("the answer is no HelloVerifyRequest")
            return
        }
        #expect(cookie.count == CookieAuthority.cookieSize)
        #expect(endpoint.counters.hellosAnswered == 1 && endpoint.counters.admitted == 0)
    }

    @Test func `of many hellos with wrong cookies some are answered, and valid ones are admitted all the same`() throws
    {
        var endpoint = Endpoint(.cookies(cookies))
        let valid = hello.bytes(cookie: try cookie(&endpoint), number: 1)
        let wrong = hello.bytes(cookie: Array(repeating: 7, count: CookieAuthority.cookieSize), number: 1)
        let burst = 2_000
        for _ in 0..<burst {
            guard case .reply = decide(&endpoint, wrong) else {
                Issue.record("a client whose cookie has become too old is not asked again")
                return
            }
        }
        #expect(decide(&endpoint, wrong) == .drop(.wrongCookie))
        #expect(endpoint.counters.wrongCookies == 1)
        #expect(endpoint.counters.hellosAnswered == UInt64(burst) + 1)
        #expect(decide(&endpoint, valid) == .admit(datagram: valid, isHello: true))
        guard case .reply = decide(&endpoint, hello.bytes()) else {
            Issue.record("a hello without a cookie is not answered")
            return
        }
        guard case .reply = decide(&endpoint, wrong, now: start + .milliseconds(1)) else {
            Issue.record("nobody is asked again any more")
            return
        }
    }

    @Test func `a hello with a valid cookie is admitted`() throws {
        var endpoint = Endpoint(.cookies(cookies))
        _ = try admit(&endpoint, as: 1)
        #expect(endpoint.counters.admitted == 1)
    }

    @Test func `a cookie is of no use to another peer, at another local address, or minutes later`() throws {
        var endpoint = Endpoint(.cookies(cookies))
        let datagram = hello.bytes(cookie: try cookie(&endpoint), number: 1)
        let otherPeer = FlowKey(peer: flow.peer.with(port: 40_001), local: flow.local)
        let otherLocal = FlowKey(peer: flow.peer, local: flow.local.with(port: 4_434))
        for flow in [otherPeer, otherLocal] {
            guard case .reply = decide(&endpoint, datagram, flow: flow) else {
                Issue.record("the cookie was taken for \(flow)")
                return
            }
        }
        guard case .reply = decide(&endpoint, datagram, minute: Minute(number: minute.number + 2)) else {
            Issue.record("the cookie was taken two minutes later")
            return
        }
        #expect(
            decide(&endpoint, datagram, minute: Minute(number: minute.number + 1))
                == .admit(datagram: datagram, isHello: true))
    }

    @Test func `a cookie of another authority is answered with a new one`() throws {
        var endpoint = Endpoint(.cookies(cookies))
        let datagram = hello.bytes(cookie: try cookie(&endpoint), number: 1)
        endpoint.policy = .cookies(try CookieAuthority(secret: Array(1..<33)))
        guard case .reply = decide(&endpoint, datagram) else {
            Issue.record("the cookie of another secret was taken")
            return
        }
    }

    @Test func `a hello in several records of one datagram is one hello`() throws {
        var endpoint = Endpoint(.cookies(cookies))
        let whole = hello.bytes(cookie: try cookie(&endpoint), number: 1)
        #expect(decide(&endpoint, fragmented(whole)) == .admit(datagram: whole, isHello: true))
    }

    /// A hello as two fragments, each in a record of its own.
    private func fragmented(_ hello: [UInt8]) -> [UInt8] {
        let message = Array(hello[13...])
        let header = message[..<6]
        let body = message[12...]
        let size = body.count
        func record(_ range: Range<Int>, _ number: UInt8) -> [UInt8] {
            let part = Array(body.dropFirst(range.lowerBound).prefix(range.count))
            let fragment =
                Array(header) + [0, UInt8(range.lowerBound >> 8), UInt8(range.lowerBound & 255)]
                + [0, UInt8(part.count >> 8), UInt8(part.count & 255)] + part
            return Array(hello[..<10]) + [number, UInt8(fragment.count >> 8), UInt8(fragment.count & 255)] + fragment
        }
        return record(0..<60, 1) + record(60..<size, 2)
    }

    // MARK: Other datagrams

    @Test func `a hello that contradicts itself is dropped`() {
        var endpoint = Endpoint(.cookies(cookies))
        var datagram = hello.bytes()
        // The length of the session id.
        datagram[59] = 200
        #expect(decide(&endpoint, datagram) == .drop(.malformed))
        #expect(endpoint.counters.malformed == 1)
    }

    @Test(arguments: [[], [23, 0xfe, 0xfd], Array(repeating: 0, count: 200), [23, 0xfe, 0xfd, 0, 1] + Array(0..<60)])
    func `what is no hello is dropped`(_ datagram: [UInt8]) {
        var endpoint = Endpoint(.cookies(cookies))
        #expect(decide(&endpoint, datagram) == .drop(.unrelated))
        #expect(endpoint.counters.unrelated == 1)
    }

    /// What a device sends to which a NAT has given another port: types, version, epoch, number, length.
    @Test(arguments: [20, 21, 22, 23, 24] as [UInt8])
    func `a protected record without a connection is counted apart from garbage`(_ type: UInt8) {
        var endpoint = Endpoint(.cookies(cookies))
        let record: [UInt8] = [type, 0xfe, 0xfd, 0, 1, 0, 0, 0, 0, 0, 7, 0, 4, 1, 2, 3, 4]
        #expect(decide(&endpoint, record) == .recordOfConnection)
        #expect(endpoint.counters.ofNoConnection == 0, "another process may have its connection")
        endpoint.dropOfNoConnection()
        #expect(endpoint.counters.ofNoConnection == 1 && endpoint.counters.unrelated == 0)
        // In plain text, of another protocol, cut off.
        let others: [[UInt8]] = [
            [type, 0xfe, 0xfd, 0, 0, 0, 0, 0, 0, 0, 7, 0, 4, 9, 2, 3, 4],
            [type, 0x03, 0x03, 0, 1, 0, 0, 0, 0, 0, 7, 0, 4, 1, 2, 3, 4],
            [type, 0xfe, 0xfd, 0, 1, 0, 0, 0, 0, 0, 7, 0],
        ]
        for other in others { #expect(decide(&endpoint, other) == .drop(.unrelated)) }
        #expect(endpoint.counters.ofNoConnection == 1 && endpoint.counters.unrelated == 3)
    }

    @Test func `a protected record of a connection that was just admitted is that one's`() throws {
        var endpoint = Endpoint(.cookies(cookies))
        _ = try admit(&endpoint, as: 7)
        let record: [UInt8] = [23, 0xfe, 0xfd, 0, 1, 0, 0, 0, 0, 0, 7, 0, 1, 1]
        #expect(decide(&endpoint, record) == .forward(7))
        #expect(decide(&endpoint, record, now: start + .seconds(2)) == .recordOfConnection)
    }

    /// Its hello and its records may lie in the listener's queue when the new socket is connected.
    @Test func `what comes late for a connection that has got a socket again is forwarded to it`() throws {
        var endpoint = Endpoint(.cookies(cookies))
        let datagram = hello.bytes(cookie: try cookie(&endpoint), number: 1)
        endpoint.expectLateDatagrams(of: flow, for: 9, now: start)
        #expect(endpoint.counters.admitted == 0)
        let record: [UInt8] = [23, 0xfe, 0xfd, 0, 1, 0, 0, 0, 0, 0, 7, 0, 1, 1]
        #expect(decide(&endpoint, record) == .forward(9))
        #expect(decide(&endpoint, datagram) == .forward(9))
        guard case .reply = decide(&endpoint, hello.bytes()) else {
            Issue.record("a hello without a cookie proves nothing")
            return
        }
        // The connection is gone.
        endpoint.forget(flow)
        #expect(decide(&endpoint, datagram) == .admit(datagram: datagram, isHello: true))
        endpoint.expectLateDatagrams(of: flow, for: 10, now: start)
        #expect(decide(&endpoint, datagram, now: start + .seconds(2)) == .admit(datagram: datagram, isHello: true))
    }

    @Test func `a peer that is not allowed gets no answer, whatever it sends`() throws {
        var endpoint = Endpoint(.cookies(cookies))
        let datagram = hello.bytes(cookie: try cookie(&endpoint), number: 1)
        let denied = AccessList.Rule(try NetworkPrefix(parsing: "192.0.2.0/24"), allows: false)
        endpoint.access = [AccessList([denied], otherwise: true)]
        for datagram in [datagram, hello.bytes(), [23]] {
            #expect(decide(&endpoint, datagram) == .drop(.denied))
        }
        #expect(endpoint.counters.refused[.denied] == 3)
        let other = FlowKey(peer: try #require(SocketAddress("198.51.100.1:40000")), local: flow.local)
        guard case .reply = decide(&endpoint, hello.bytes(), flow: other) else {
            Issue.record("a peer that is not on the list was not answered")
            return
        }
    }

    @Test func `a peer that was refused is asked for no other cookie, and may try again`() throws {
        var endpoint = Endpoint(.cookies(cookies))
        let datagram = hello.bytes(cookie: try cookie(&endpoint), number: 1)
        for _ in 0..<2 {
            #expect(decide(&endpoint, datagram) == .admit(datagram: datagram, isHello: true))
            endpoint.refused(.full)
        }
        #expect(endpoint.counters.refused[.full] == 2 && endpoint.counters.admitted == 0)
    }

    // MARK: Recent flows (rule 4)

    @Test func `a copy of the hello that was just admitted is dropped for two seconds`() throws {
        var endpoint = Endpoint(.cookies(cookies))
        let datagram = try admit(&endpoint, as: 1)
        #expect(decide(&endpoint, datagram) == .drop(.repeated))
        #expect(decide(&endpoint, datagram, now: start + .milliseconds(1_999)) == .drop(.repeated))
        #expect(
            decide(&endpoint, datagram, now: start + .seconds(2)) == .admit(datagram: datagram, isHello: true))
    }

    @Test func `another hello of an admitted flow is a new client's`() throws {
        var endpoint = Endpoint(.cookies(cookies))
        _ = try admit(&endpoint, as: 1)
        guard case .reply = decide(&endpoint, ClientHelloBytes().bytes()) else {
            Issue.record("the new client was not asked for a cookie")
            return
        }
    }

    @Test func `what else an admitted flow sends is its connection's, for two seconds`() throws {
        var endpoint = Endpoint(.cookies(cookies))
        _ = try admit(&endpoint, as: 7)
        #expect(decide(&endpoint, [23, 0xfe, 0xfd]) == .forward(7))
        #expect(decide(&endpoint, [23, 0xfe, 0xfd], now: start + .seconds(2)) == .drop(.unrelated))
        let other = FlowKey(peer: flow.peer.with(port: 1), local: flow.local)
        #expect(decide(&endpoint, [23, 0xfe, 0xfd], flow: other) == .drop(.unrelated))
    }

    @Test func `a connection that is gone has nothing forwarded to it`() throws {
        var endpoint = Endpoint(.cookies(cookies))
        let datagram = try admit(&endpoint, as: 7)
        endpoint.forget(flow)
        #expect(decide(&endpoint, [23, 0xfe, 0xfd]) == .drop(.unrelated))
        #expect(decide(&endpoint, datagram) == .admit(datagram: datagram, isHello: true))
    }

    // MARK: Plain datagrams

    @Test func `without cookies the first datagram admits, and the next is its connection's`() {
        var endpoint = Endpoint(.none)
        #expect(decide(&endpoint, [1, 2]) == .admit(datagram: [1, 2], isHello: false))
        endpoint.admitted(nil, flow, as: 3, now: start)
        #expect(decide(&endpoint, [1, 2]) == .forward(3))
        endpoint.forget(flow)
        #expect(decide(&endpoint, [4]) == .admit(datagram: [4], isHello: false))
        #expect(decide(&endpoint, []) == .admit(datagram: [], isHello: false))
    }
}

/// What is remembered of admitted flows.
@Suite struct RecentFlowsTests {
    private let random: ClientRandom
    private let now = Instant(nanoseconds: 5_000_000_000)

    init() throws {
        let value: ClientRandom? = ClientHelloBytes().bytes().withUnsafeBytes {
            if case .hello(let hello) = ClientHello.parse($0) { hello.randomValue } else { nil }
        }
        random = try #require(value)
    }

    private func flow(_ number: Int) -> FlowKey {
        // Port and address together tell more flows apart than ports do.
        let bytes = [10, 0, UInt8(number >> 8 & 255), UInt8(number & 255)] as [UInt8]
        let peer = bytes.withUnsafeBytes { SocketAddress(family: .ipv4, addressBytes: $0, port: 1_000) }
        return FlowKey(peer: peer ?? .anyAddress(.ipv4, port: 1), local: .anyAddress(.ipv4, port: 4_433))
    }

    @Test func `a flow is known by its newest connection, until it expires`() {
        var recent = RecentFlows()
        recent.insert(flow(1), random, 1, now: now)
        recent.insert(flow(1), nil, 2, now: now + .seconds(1))
        #expect(recent.connection(of: flow(1), now: now + .milliseconds(2_999)) == 2)
        #expect(recent.connection(of: flow(1), now: now + .seconds(3)) == nil)
        #expect(!recent.contains(flow(1), random, now: now))
        #expect(recent.connection(of: flow(2), now: now) == nil)
    }

    @Test func `the oldest flow makes room for the newest`() {
        var recent = RecentFlows()
        for number in 0...RecentFlows.capacity { recent.insert(flow(number), random, UInt64(number), now: now) }
        #expect(!recent.contains(flow(0), random, now: now))
        #expect(recent.contains(flow(1), random, now: now))
        #expect(recent.connection(of: flow(RecentFlows.capacity), now: now) == UInt64(RecentFlows.capacity))
        // Around, and on.
        for number in 0..<RecentFlows.capacity { recent.insert(flow(number), random, 9, now: now) }
        #expect(recent.connection(of: flow(0), now: now) == 9)
        #expect(recent.connection(of: flow(RecentFlows.capacity), now: now) == nil)
    }

    @Test func `flows that have expired are given up`() {
        var recent = RecentFlows()
        #expect(recent.removeExpired(now: now) == nil)
        for number in 0..<1_000 {
            recent.insert(flow(number), random, UInt64(number), now: now + .milliseconds(number))
        }
        // It is the oldest, and was there again meanwhile.
        recent.insert(flow(0), random, 1_000, now: now + .seconds(1))
        let later = now + RecentFlows.lifetime + .milliseconds(500)
        #expect(recent.removeExpired(now: later) == now + .seconds(1) + RecentFlows.lifetime)
        #expect(recent.connection(of: flow(0), now: later) == 1_000)
        #expect(recent.connection(of: flow(500), now: later) == nil)
        #expect(recent.connection(of: flow(999), now: later) == 999)
        recent.forget(flow(0))
        #expect(recent.removeExpired(now: later) == now + .milliseconds(501) + RecentFlows.lifetime)
        #expect(recent.removeExpired(now: later + .seconds(1)) == nil)
        recent.insert(flow(1), random, 7, now: later + .seconds(1))
        #expect(recent.connection(of: flow(1), now: later + .seconds(1)) == 7)
    }

    @Test func `a flow that is forgotten and comes again is known again`() {
        var recent = RecentFlows()
        recent.insert(flow(1), random, 1, now: now)
        recent.forget(flow(1))
        recent.forget(flow(2))
        #expect(recent.connection(of: flow(1), now: now) == nil && recent.connection(of: flow(2), now: now) == nil)
        recent.insert(flow(1), random, 2, now: now)
        #expect(recent.connection(of: flow(1), now: now) == 2)
    }
}

/// The queue of datagrams that a connection's socket has yielded and that are the listener's.
@Suite struct MisdeliveredDatagramsTests {
    private let flow = FlowKey(peer: .anyAddress(.ipv4, port: 1), local: .anyAddress(.ipv4, port: 2))

    private func add(_ byte: UInt8, to queue: inout MisdeliveredDatagrams) -> MisdeliveredDatagrams.Outcome {
        withUnsafeBytes(of: byte) { queue.add($0, flow) }
    }

    @Test func `they come out once, in order, and one turn is asked for`() {
        var queue = MisdeliveredDatagrams()
        #expect(add(1, to: &queue) == .needsTurn)
        #expect(add(2, to: &queue) == .waits)
        #expect(queue.takeAll().map(\.datagram) == [[1], [2]])
        #expect(queue.takeAll().isEmpty)
        // The turn is still to come.
        #expect(add(3, to: &queue) == .waits)
        queue.turnHasCome()
        #expect(add(4, to: &queue) == .needsTurn)
        #expect(queue.takeAll().map(\.datagram) == [[3], [4]])
    }

    @Test func `what is above the bound is lost`() {
        var queue = MisdeliveredDatagrams()
        for _ in 0..<MisdeliveredDatagrams.maximum { #expect(add(0, to: &queue) != .full) }
        #expect(add(1, to: &queue) == .full)
        #expect(queue.takeAll().count == MisdeliveredDatagrams.maximum)
        #expect(add(1, to: &queue) != .full)
    }
}
