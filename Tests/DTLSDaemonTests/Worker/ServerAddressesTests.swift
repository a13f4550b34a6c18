import LinuxSystem
import Primitives
import Testing

@testable import DTLSDaemon

/// Which address of its server a client connects to.
@Suite struct ServerAddressesTests {
    private let all: [SocketAddress]

    init() throws { all = try (1...3).map { try #require(SocketAddress("192.0.2.\($0):5684")) } }

    @Test func `after a failure it is the next address' turn, and the last failure of all is told`() {
        var addresses = ServerAddresses()
        #expect(addresses.current == nil)
        addresses.replace(with: all)
        #expect(addresses.current == all[0])
        for (index, isLast) in [(0, false), (1, false), (2, true)] {
            let haveAllFailed = addresses.noteFailure(of: all[index])
            #expect(haveAllFailed == isLast)
            #expect(addresses.current == all[(index + 1) % 3])
        }
    }

    @Test func `several connections that fail together count once`() {
        var addresses = ServerAddresses()
        addresses.replace(with: all)
        for _ in 0..<5 {
            let haveAllFailed = addresses.noteFailure(of: all[0])
            #expect(!haveAllFailed)
        }
        #expect(addresses.current == all[1])
    }

    @Test func `an address that served stays, and failures before it are forgotten`() {
        var addresses = ServerAddresses()
        addresses.replace(with: all)
        _ = addresses.noteFailure(of: all[0])
        addresses.noteSuccess()
        #expect(addresses.current == all[1])
        let outcomes = [1, 2, 0].map { addresses.noteFailure(of: all[$0]) }
        #expect(outcomes == [false, false, true])
    }

    @Test func `the address that is used stays as long as the name has it`() {
        var addresses = ServerAddresses()
        addresses.replace(with: all)
        _ = addresses.noteFailure(of: all[0])
        addresses.replace(with: all.reversed())
        #expect(addresses.current == all[1])
        addresses.replace(with: [all[2], all[0]])
        #expect(addresses.current == all[2])
        addresses.replace(with: [])
        let haveAllFailed = addresses.noteFailure(of: nil)
        #expect(addresses.current == nil && haveAllFailed)
    }

    @Test func `a worker asks once a second for a name whose addresses all refuse`() {
        let hosts = HostTable()
        var asked: [String] = []
        hosts.onRefused = { asked.append($0) }
        let now = Instant(nanoseconds: 1_000_000_000)
        hosts.noteRefusal(of: "a", now: now)
        hosts.noteRefusal(of: "a", now: now + .milliseconds(999))
        hosts.noteRefusal(of: "b", now: now)
        hosts.noteRefusal(of: "a", now: now + .seconds(1))
        #expect(asked == ["a", "b", "a"])
    }
}
