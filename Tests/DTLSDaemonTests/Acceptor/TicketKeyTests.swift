import DTLSEngine
import DTLSTransport
import LinuxSystem
import Primitives
import Testing

@testable import DTLSDaemon

@Suite struct GeneratedTicketKeyTests {
    /// Keys that are told apart by their first byte: 1, 2, 3 …
    private final class Source {
        var count: UInt8 = 0
        func generate() -> TicketKey {
            count += 1
            return TicketKey([count] + [UInt8](repeating: 0, count: 79)) ?? generate()
        }
    }

    private func numbers(_ keys: GeneratedTicketKeys) -> [UInt8] { keys.keys.compactMap { $0.key.bytes.first } }

    @Test func `a key seals for its rotation and opens as long as its tickets live`() {
        let source = Source()
        var keys = GeneratedTicketKeys()
        let configuration = TicketConfiguration(rotation: .seconds(100), lifetime: .seconds(250))
        func advance(to seconds: UInt64) -> [UInt8] {
            keys.advance(to: BootTime(seconds: seconds), configuration, generate: source.generate)
            return numbers(keys)
        }
        #expect(advance(to: 1_000) == [1])
        #expect(advance(to: 1_099) == [1])
        #expect(keys.wait(at: BootTime(seconds: 1_099), configuration) == .seconds(1))
        #expect(advance(to: 1_100) == [2, 1])
        #expect(keys.wait(at: BootTime(seconds: 1_100), configuration) == .seconds(100))
        #expect(advance(to: 1_200) == [3, 2, 1])
        #expect(advance(to: 1_300) == [4, 3, 2, 1])
        // The first key's last ticket was sealed just before 1,100, and lives until 1,350.
        #expect(keys.wait(at: BootTime(seconds: 1_300), configuration) == .seconds(51))
        #expect(advance(to: 1_350) == [4, 3, 2, 1])
        #expect(advance(to: 1_351) == [4, 3, 2])
        // After a long sleep nothing of before is of use.
        #expect(advance(to: 9_000) == [5, 4])
        #expect(advance(to: 9_100) == [6, 5, 4])
        #expect(advance(to: 9_251) == [7, 6, 5])
    }

    @Test func `no more keys are kept than the maximum`() {
        let source = Source()
        var keys = GeneratedTicketKeys()
        let configuration = TicketConfiguration(rotation: .seconds(1), lifetime: .seconds(604_800))
        for now in 1...200 {
            keys.advance(to: BootTime(seconds: UInt64(now)), configuration, generate: source.generate)
        }
        #expect(numbers(keys) == (137...200).reversed())
    }

    @Test func `a clock that goes backwards changes nothing`() {
        let source = Source()
        var keys = GeneratedTicketKeys()
        let configuration = TicketConfiguration(rotation: .seconds(100), lifetime: .seconds(100))
        keys.advance(to: BootTime(seconds: 1_000), configuration, generate: source.generate)
        keys.advance(to: BootTime(seconds: 5), configuration, generate: source.generate)
        #expect(numbers(keys) == [1])
        #expect(keys.wait(at: BootTime(seconds: 5), configuration) == .seconds(100))
    }

    @Test func `stored keys are decoded whole or not at all`() throws {
        let source = Source()
        var keys = GeneratedTicketKeys()
        for now: UInt64 in [0, 43_200, 90_000] {
            keys.advance(
                to: BootTime(seconds: now), TicketConfiguration(lifetime: .seconds(604_800)), generate: source.generate)
        }
        #expect(numbers(keys) == [3, 2, 1])
        let bytes = keys.encode()
        #expect(try bytes.withUnsafeBytes { try GeneratedTicketKeys(decoding: $0) } == keys)
        for position in bytes.indices {
            #expect(throws: MalformedBytes.self) {
                try bytes[..<position].withUnsafeBytes { _ = try GeneratedTicketKeys(decoding: $0) }
            }
            var changed = bytes
            changed[position] ^= 0x10
            #expect(throws: MalformedBytes.self) {
                try changed.withUnsafeBytes { _ = try GeneratedTicketKeys(decoding: $0) }
            }
        }
    }

    /// What the service manager has kept is taken up, and its file is written again when the keys change.
    @Test func `the rotator continues with the keys that were stored`() throws {
        let loop = try EventLoop()
        let rotator = TicketKeyRotator(memory: FileDescriptor(owning: -1), loop: loop) { _ in }
        let configuration = TicketConfiguration()
        let first = try rotator.keys(for: configuration)
        #expect(first.count == 1)
        #expect(try rotator.keys(for: configuration) == first)

        let memory = try MemoryFile.makeOpen(name: "test")
        let second = TicketKeyRotator(memory: try memory.duplicate(), loop: loop) { _ in }
        let keys = try second.keys(for: configuration)
        #expect(keys != first)
        let third = TicketKeyRotator(memory: try memory.duplicate(), loop: loop) { _ in }
        #expect(try third.keys(for: configuration) == keys)

        // The files of a configuration go before.
        let file = try #require(TicketKey([UInt8](repeating: 9, count: 80)))
        #expect(try third.keys(for: TicketConfiguration(keys: [file])) == [file])
        #expect(try third.keys(for: configuration) == keys)

        try MemoryFile.replace(memory, with: [1, 2, 3])
        let fourth = TicketKeyRotator(memory: try memory.duplicate(), loop: loop) { _ in }
        let others = try fourth.keys(for: configuration)
        #expect(others != keys)
        let fifth = TicketKeyRotator(memory: memory, loop: loop) { _ in }
        #expect(try fifth.keys(for: configuration) == others)
    }
}

@Suite struct StoredSecretTests {
    private func secret(_ stored: consuming FileDescriptor, length: Int = 32) throws -> StoredSecret {
        try StoredSecret(length: length, stored: stored, name: "test")
    }

    @Test func `a secret goes on with the memory file that was stored`() throws {
        let first = try secret(FileDescriptor(owning: -1))
        #expect(first.bytes.count == 32)
        let second = try secret(try first.memory.duplicate())
        #expect(second.bytes == first.bytes)
        let third = try secret(FileDescriptor(owning: -1))
        #expect(third.bytes != first.bytes)
        #expect(try secret(try first.memory.duplicate(), length: 16).bytes.count == 16)
    }

    @Test(arguments: [0, 31, 33])
    func `a memory file that holds something else is not used`(_ count: Int) throws {
        let file = try MemoryFile.make([UInt8](repeating: 7, count: count), name: "test")
        let secret = try secret(file)
        #expect(secret.bytes.count == 32 && secret.bytes != [UInt8](repeating: 7, count: 32))
        #expect(try MemoryFile.read(secret.memory) == secret.bytes)
    }
}
