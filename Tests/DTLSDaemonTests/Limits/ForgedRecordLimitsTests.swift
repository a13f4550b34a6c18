import LinuxSystem
import Primitives
import Testing

@testable import DTLSDaemon

/// How many bad records with connection IDs are looked at.
@Suite struct ForgedRecordLimitsTests {
    private let start = Instant(nanoseconds: 1_000_000_000_000)

    private func address(_ number: Int) throws -> SocketAddress {
        try #require(SocketAddress(host: "10.\(number >> 16).\(number >> 8 & 255).\(number & 255)", port: 9))
    }

    @Test func `good records cost nothing, and bad ones use their network's allowance up`() throws {
        var limits = ForgedRecordLimits()
        for _ in 0..<10_000 { #expect(limits.admits(try address(1), now: start)) }
        for _ in 0..<1_000 {
            #expect(limits.admits(try address(1), now: start))
            limits.charge(try address(1), now: start)
        }
        #expect(!limits.admits(try address(1), now: start))
        #expect(limits.admits(try address(2), now: start), "the network of another source")
        #expect(!limits.admits(try address(1), now: start + .milliseconds(5)))
        #expect(limits.admits(try address(1), now: start + .milliseconds(10)), "100 a second come back")
    }

    @Test func `a report of many bad records is paid for`() throws {
        var limits = ForgedRecordLimits()
        limits.charge(try address(1), count: 1_500, now: start)
        #expect(!limits.admits(try address(1), now: start + .seconds(5)))
        #expect(limits.admits(try address(1), now: start + .milliseconds(5_010)))
    }

    @Test func `bad records from many networks use the allowance of all up`() throws {
        var limits = ForgedRecordLimits()
        for number in 0..<5_000 { limits.charge(try address(number), now: start) }
        #expect(limits.admits(try address(30_000), now: start))
        limits.charge(count: 5_000, now: start)
        #expect(!limits.admits(try address(30_000), now: start))
        #expect(limits.admits(try address(30_000), now: start + .milliseconds(1)))
    }
}
