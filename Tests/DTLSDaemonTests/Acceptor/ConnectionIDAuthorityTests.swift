import DTLSEngine
import DTLSTransport
import Testing

@testable import DTLSDaemon

/// Connection IDs as the main process makes and reads them.
@Suite struct ConnectionIDAuthorityTests {
    private let number = ConnectionNumber(worker: 65_535, slot: 70_000, generation: 9)
    private let ownKey = [UInt8](repeating: 3, count: 16)
    private let key = ConnectionIDKey(rotation: 2, bytes: [UInt8](repeating: 9, count: 16))

    private func authority(_ configuration: ConnectionIDConfiguration) throws -> ConnectionIDAuthority {
        try #require(ConnectionIDAuthority(configuration, ownKey: ownKey))
    }

    @Test(arguments: [[0], [1, 2, 3], Array(1...10)] as [[UInt8]])
    func `a connection ID of each length names its connection`(_ serverID: [UInt8]) throws {
        let authority = try authority(ConnectionIDConfiguration(keys: [key], serverID: serverID))
        let shortest = 9 + serverID.count
        for length in shortest...20 {
            let id = try #require(authority.makeConnectionID(for: number, length: length))
            #expect(id.count == length && authority.read(id) == .connection(number))
            // What a listener reads from a record.
            #expect(id.bytes.first == 2 << 5 | UInt8(length - 1))
        }
        for length in [-1, 0, shortest - 1, 21] {
            #expect(authority.makeConnectionID(for: number, length: length) == nil)
        }
    }

    @Test func `two connection IDs of the same number differ where there is room`() throws {
        let authority = try authority(ConnectionIDConfiguration())
        let ids = (0..<20).map { _ in authority.makeConnectionID(for: number, length: 17) }
        #expect(Set(ids).count == 20)
    }

    @Test func `the daemon's own key reads what it has made after a reload that brings others`() throws {
        let old = try #require(
            try authority(ConnectionIDConfiguration()).makeConnectionID(for: number, length: 12))
        #expect(old.bytes.first == UInt8(6 << 5 | 11))
        let after = try authority(ConnectionIDConfiguration(keys: [key]))
        #expect(after.read(old) == .connection(number))
        let new = try #require(after.makeConnectionID(for: number, length: 12))
        #expect(new.bytes.first == UInt8(2 << 5 | 11))
        // A key of the file has its number: what the daemon's has made is another machine's now, if it is anybody's.
        let replaced = ConnectionIDKey(rotation: 6, bytes: key.bytes)
        #expect(try authority(ConnectionIDConfiguration(keys: [replaced])).read(old) != .connection(number))
    }

    @Test func `a key is read as long as it is in the file, whichever makes new ones`() throws {
        let other = ConnectionIDKey(rotation: 5, bytes: [UInt8](repeating: 1, count: 16))
        let old = try #require(
            try authority(ConnectionIDConfiguration(keys: [key])).makeConnectionID(for: number, length: 17))
        #expect(try authority(ConnectionIDConfiguration(keys: [other, key])).read(old) == .connection(number))
        #expect(try authority(ConnectionIDConfiguration(keys: [other])).read(old) == .unknownKey)
    }

    @Test func `a connection ID of another machine is told from one of this machine`() throws {
        let there = try authority(ConnectionIDConfiguration(keys: [key], serverID: [1]))
        let here = try authority(ConnectionIDConfiguration(keys: [key], serverID: [2]))
        let id = try #require(there.makeConnectionID(for: number, length: 17))
        #expect(here.read(id) == .ofAnotherMachine)
    }

    @Test func `bytes that nobody has made name nothing that is here`() throws {
        let authority = try authority(ConnectionIDConfiguration(keys: [key]))
        #expect(authority.read(.empty) == .unknownKey)
        for length in 1...32 {
            let bytes = [2 << 5 | UInt8(length - 1)] + [UInt8](repeating: 0x5a, count: length - 1)
            let id = try #require(ConnectionID(bytes))
            #expect(authority.read(id) != .connection(number), "\(length)")
        }
    }
}
