import Foundation
import TestSupport
import Testing

@Suite(.serialized) struct LeakTests {
    /// 1,000 connections one after the other, and 500 at once.
    @Test func `connections that are over leave no descriptor and no memory behind`() async throws {
        let authority = try await TestAuthority()
        let identity = try await authority.issue("server")
        // Some seconds of work, on an idle machine.
        let output = try await Program.run(
            [Executables.path("DTLSKitSoak"), identity.certificateFile, identity.keyFile], in: authority.folder,
            within: 600)
        let lines = output.split(separator: "\n").map { $0.split(separator: " ").map(String.init) }
        try #require(lines.count == 2, "\(output)")
        for (words, count) in zip(lines, [1_000, 500]) {
            try #require(words.count == 7, "\(output)")
            #expect(Int(words[2]) == count)
            #expect(words[4] == "0", "descriptors are left: \(output)")
            // One connection's memory is 36 KiB; 1,000 that leave an object each are 16 KiB and more.
            #expect((Int(words[6]) ?? .max) < 4_096, "memory is left: \(output)")
        }
    }
}
