import DTLSTransport
import Glibc
import LinuxSystem
import Primitives
import TestSupport
import Testing

@testable import DTLSDaemon

/// From which addresses backends are sent to, without a socket and by a clock that stands still.
@Suite struct SourceAddressesTests {
    private static let noPort = LocalShortage(SystemError("bind", errno: EADDRINUSE))
    private static let noDescriptor = LocalShortage(SystemError("socket", errno: EMFILE))
    private let second: UInt64 = 1_000_000_000

    private static func address(_ host: String) throws -> SocketAddress {
        try #require(SocketAddress(host: host, port: 0))
    }

    private static func addresses(_ hosts: String...) throws -> SourceAddresses {
        SourceAddresses(try hosts.map { LocalSource(address: try address($0)) })
    }

    /// The addresses for the next socket.
    private func turn(
        _ sources: inout SourceAddresses, _ family: SocketAddress.Family = .ipv4, _ nanoseconds: UInt64 = 0
    ) -> [String?] {
        sources.takeTurn(family, now: at(nanoseconds)).map { $0.address?.host }
    }

    @Test func `without addresses the kernel chooses`() throws {
        var sources = try Self.addresses()
        let turns = [turn(&sources), turn(&sources, .ipv6)]
        #expect(turns == [[nil], [nil]])
    }

    @Test func `the addresses take turns, and each is followed by all others`() throws {
        var sources = try Self.addresses("192.0.2.1", "2001:db8::1", "192.0.2.2", "192.0.2.3")
        let turns = (0..<4).map { _ in turn(&sources) }
        #expect(turns[0] == ["192.0.2.1", "192.0.2.2", "192.0.2.3"])
        #expect(turns[1] == ["192.0.2.2", "192.0.2.3", "192.0.2.1"])
        #expect(turns[2] == ["192.0.2.3", "192.0.2.1", "192.0.2.2"])
        #expect(turns[3] == turns[0])
        let other = turn(&sources, .ipv6)
        #expect(other == ["2001:db8::1"])
    }

    @Test func `an address without ports is left alone for a while`() throws {
        var sources = try Self.addresses("192.0.2.1", "192.0.2.2")
        let first = try #require(sources.takeTurn(.ipv4, now: at(0)).first)
        // The other may have ports, so there is nothing to tell.
        let isNews = sources.note(Self.noPort, from: first, now: at(0))
        #expect(!isNews && sources.isShort && sources.shortage(.ipv4) == nil)
        let early = turn(&sources, .ipv4, second - 1)
        #expect(early == ["192.0.2.2"])
        let late = turn(&sources, .ipv4, second)
        #expect(late == ["192.0.2.1", "192.0.2.2"])
    }

    @Test func `a shortage of all addresses is news once a minute`() throws {
        var sources = try Self.addresses("192.0.2.1", "192.0.2.2")
        let both = sources.takeTurn(.ipv4, now: at(0))
        let news = [
            sources.note(Self.noPort, from: both[0], now: at(0)), sources.note(Self.noPort, from: both[1], now: at(0)),
        ]
        #expect(news == [false, true])
        #expect(sources.shortage(.ipv4) == Self.noPort)
        #expect(sources.shortage(.ipv4)?.refusal == .localPorts)
        #expect(sources.shortage(.ipv6) == nil)
        let next = turn(&sources, .ipv4, 1)
        #expect(next.isEmpty)
        let later = [59, 60].map { sources.note(Self.noPort, from: both[0], now: at($0 * second)) }
        #expect(later == [false, true])
    }

    @Test func `a socket that is closed ends the pause, and one that is opened the shortage`() throws {
        var sources = try Self.addresses()
        let only = try #require(sources.takeTurn(.ipv6, now: at(0)).first)
        let isNews = sources.note(Self.noDescriptor, from: only, now: at(0))
        #expect(isNews && sources.shortage(.ipv6)?.refusal == .descriptors)
        let during = sources.takeTurn(.ipv6, now: at(1))
        #expect(during.isEmpty)
        sources.noteClosedSocket()
        let after = sources.takeTurn(.ipv6, now: at(1))
        #expect(after == [only] && sources.shortage(.ipv6) != nil)
        sources.noteSocket(from: only)
        #expect(sources.shortage(.ipv6) == nil && !sources.isShort)
    }

    @Test(arguments: [ECONNREFUSED, ENETUNREACH, EHOSTUNREACH, EACCES, EPERM, EADDRNOTAVAIL])
    func `an error that the network causes is the backend's`(_ errno: Int32) throws {
        let source = try Self.address("192.0.2.1")
        #expect(LocalShortage(connecting: SystemError("connect", errno: errno), from: source) == nil)
        #expect(LocalShortage(connecting: SystemError("connect", errno: errno), from: nil) == nil)
    }

    @Test(arguments: [
        (EAGAIN, Refusal.localPorts), (EMFILE, .descriptors), (ENFILE, .descriptors), (ENOBUFS, .descriptors),
        (ENOMEM, .descriptors),
    ])
    func `an error of this machine is not the backend's`(_ errno: Int32, _ refusal: Refusal) {
        #expect(LocalShortage(connecting: SystemError("connect", errno: errno), from: nil)?.refusal == refusal)
    }

    @Test func `an address that is gone or that leads nowhere is not the backend's fault`() throws {
        #expect(LocalShortage(SystemError("bind", errno: EADDRNOTAVAIL)).refusal == .socket)
        let source = try Self.address("127.0.0.1")
        #expect(LocalShortage(connecting: SystemError("connect", errno: EINVAL), from: source)?.refusal == .socket)
    }
}
