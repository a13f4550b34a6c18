import LinuxSystem
import Primitives
import Testing

@testable import DTLSDaemon

/// When names are looked up, and what becomes of the answers.
@Suite final class NameTableTests {
    private var table = NameTable()
    private var now = Instant(nanoseconds: 1_000_000_000_000)

    private static func addresses(_ texts: String...) throws -> [SocketAddress] {
        try texts.map { try #require(SocketAddress(host: $0, port: 0)) }
    }

    private func answer(
        _ host: String, _ addresses: [SocketAddress], timeToLive: UInt32 = 60
    ) -> [NameTable.Action] {
        table.answered(LookUpAnswer(host: host, outcome: .found(addresses, timeToLive: timeToLive)), now: now)
    }

    private func fail(_ host: String, _ reason: String = "no") -> [NameTable.Action] {
        table.answered(LookUpAnswer(host: host, outcome: .failed(reason)), now: now)
    }

    @Test func `a new name is looked up at once, and once`() {
        table.add(["a"], now: now)
        #expect(table.advance(to: now) == [.lookUp("a")])
        #expect(table.advance(to: now) == [])
        table.add(["a"], now: now)
        #expect(table.advance(to: now) == [])
    }

    @Test(arguments: [(0, 5), (1, 1), (30, 30), (3_600, 3_600), (86_400, 3_600)])
    func `a name is looked up again when its time to live is over`(_ given: UInt32, _ held: Int) throws {
        table.add(["a"], now: now)
        _ = table.advance(to: now)
        let addresses = try Self.addresses("192.0.2.1")
        #expect(answer("a", addresses, timeToLive: given) == [.publish("a", addresses)])
        #expect(table.deadline == now + .seconds(held))
        now = now + .seconds(held) - .milliseconds(1)
        #expect(table.advance(to: now) == [])
        now = now + .milliseconds(1)
        #expect(table.advance(to: now) == [.lookUp("a")])
    }

    @Test func `the same addresses in another order are no change, unless another family is preferred`() throws {
        table.add(["a"], now: now)
        _ = table.advance(to: now)
        _ = answer("a", try Self.addresses("192.0.2.1", "192.0.2.2", "::1"), timeToLive: 1)
        now = now + .seconds(1)
        _ = table.advance(to: now)
        #expect(answer("a", try Self.addresses("192.0.2.2", "192.0.2.1", "::1"), timeToLive: 1) == [])
        now = now + .seconds(1)
        _ = table.advance(to: now)
        let other = try Self.addresses("::1", "192.0.2.1", "192.0.2.2")
        #expect(answer("a", other) == [.publish("a", other), .logChange("a", other)])
    }

    @Test func `a failure is logged once, tried again ever more slowly, and its end is logged`() throws {
        table.add(["a"], now: now)
        var pauses: [Int] = []
        for number in 0..<9 {
            #expect(table.advance(to: now) == [.lookUp("a")])
            #expect(fail("a") == (number == 0 ? [.logFailure("a", reason: "no", pause: .seconds(1))] : []))
            pauses.append(Int((table.deadline - now).seconds))
            now = table.deadline
        }
        #expect(pauses == [1, 2, 4, 8, 16, 32, 60, 60, 60])
        #expect(table.failure(of: "a") == "no" && table.areSettled(["a"]))
        let addresses = try Self.addresses("192.0.2.1")
        _ = table.advance(to: now)
        #expect(answer("a", addresses) == [.publish("a", addresses), .logSuccess("a", addresses)])
        #expect(table.failure(of: "a") == nil)
    }

    @Test func `the last addresses hold while the name cannot be looked up`() throws {
        table.add(["a"], now: now)
        _ = table.advance(to: now)
        let addresses = try Self.addresses("192.0.2.1")
        _ = answer("a", addresses, timeToLive: 1)
        now = now + .seconds(1)
        _ = table.advance(to: now)
        _ = fail("a")
        #expect(table.addresses(of: "a") == addresses)
        // The same addresses again: nothing to publish.
        now = now + .seconds(1)
        _ = table.advance(to: now)
        #expect(answer("a", addresses) == [.logSuccess("a", addresses)])
    }

    @Test func `a name whose addresses all refuse is looked up early, at most every two seconds`() throws {
        table.add(["a"], now: now)
        _ = table.advance(to: now)
        _ = answer("a", try Self.addresses("192.0.2.1"), timeToLive: 3_600)
        table.refused("a", now: now)
        #expect(table.deadline == now + .seconds(2))
        now = now + .seconds(100)
        table.refused("a", now: now)
        #expect(table.advance(to: now) == [.lookUp("a")])
        table.refused("a", now: now)
        #expect(table.advance(to: now) == [])
        _ = answer("a", try Self.addresses("192.0.2.1"), timeToLive: 1)
        // It does not make a look-up later.
        table.refused("a", now: now)
        #expect(table.deadline == now + .seconds(1))
        table.refused("of nobody", now: now)
        #expect(table.names == ["a"])
    }

    @Test func `addresses that nothing can be sent to, and copies, are left out`() throws {
        table.add(["a", "b"], now: now)
        _ = table.advance(to: now)
        let found = try Self.addresses("0.0.0.0", "224.0.0.1", "::ffff:192.0.2.1", "fe80::1", "192.0.2.1", "192.0.2.1")
        #expect(answer("a", found) == [.publish("a", try Self.addresses("192.0.2.1"))])
        #expect(
            answer("b", try Self.addresses("0.0.0.0")) == [
                .logFailure("b", reason: "nothing can be sent to its addresses: 0.0.0.0", pause: .seconds(1))
            ])
        #expect(table.addresses(of: "b") == [])
    }

    @Test func `an answer that nobody waits for is ignored`() throws {
        table.add(["a"], now: now)
        let addresses = try Self.addresses("192.0.2.1")
        #expect(answer("a", addresses) == [] && answer("b", addresses) == [])
        _ = table.advance(to: now)
        #expect(answer("a", addresses) != [])
        #expect(answer("a", try Self.addresses("192.0.2.2")) == [])
        #expect(table.known == ["a": addresses])
    }

    @Test func `a resolver's words are printable and short in the log`() {
        table.add(["a"], now: now)
        _ = table.advance(to: now)
        let reason = fail("a", "a\nb" + String(repeating: "x", count: 1_000)).compactMap { action in
            if case .logFailure(_, let reason, _) = action { reason } else { nil }
        }
        #expect(reason == ["a\\u{a}b" + String(repeating: "x", count: 197)])
    }

    @Test func `no more than 64 names are looked up at a time`() {
        let names = (100..<200).map { "n\($0)" }
        table.add(names, now: now)
        #expect(table.advance(to: now).count == 64)
        #expect(table.deadline == now + NameTable.timeLimit)
        #expect(fail("n100").count == 1)
        #expect(table.advance(to: now) == [.lookUp("n164")])
    }

    @Test func `a resolver that never answers does not hold a name for ever`() {
        table.add(["a"], now: now)
        _ = table.advance(to: now)
        now = table.deadline
        #expect(
            table.advance(to: now) == [
                .logFailure("a", reason: "no answer within 60 s", pause: .seconds(1))
            ])
        #expect(table.deadline == now + .seconds(1))
    }

    @Test func `what a resolver was asked that has ended is asked again`() {
        table.add(["a"], now: now)
        _ = table.advance(to: now)
        table.resolverEnded(now: now)
        #expect(table.advance(to: now) == [.lookUp("a")])
        table.keepOnly([])
        #expect(table.deadline == .distantFuture)
        table.add(["b"], now: now)
        #expect(table.advance(to: now) == [.lookUp("b")])
    }

    @Test func `other name servers are asked at once`() throws {
        table.add(["a"], now: now)
        _ = table.advance(to: now)
        let addresses = try Self.addresses("192.0.2.1")
        _ = answer("a", addresses, timeToLive: 3_600)
        table.serversChanged(now: now)
        #expect(table.advance(to: now) == [.lookUp("a")] && table.addresses(of: "a") == addresses)
    }

    @Test func `the next main process begins with the addresses that are known, and looks them up`() throws {
        table.add(["a", "b"], now: now)
        _ = table.advance(to: now)
        let addresses = try Self.addresses("192.0.2.1", "2001:db8::1")
        _ = answer("a", addresses)
        let bytes = table.encode()
        var next = NameTable()
        next.restore(try bytes.withUnsafeBytes { try NameTable.decode($0) }, now: now)
        #expect(next.known == ["a": addresses])
        #expect(next.areSettled(["a"]) && !next.areSettled(["b"]))
        #expect(next.advance(to: now) == [.lookUp("a")])
        for count in bytes.indices {
            #expect(throws: MalformedBytes.self, "\(count)") {
                try bytes[..<count].withUnsafeBytes { _ = try NameTable.decode($0) }
            }
        }
    }
}

@Suite struct ResolverMessageTests {
    @Test func `questions and answers arrive as they were sent, and not in part`() throws {
        let addresses = try ["192.0.2.1", "2001:db8::1"].map { try #require(SocketAddress(host: $0, port: 0)) }
        let question = LookUpQuestion(host: "be.example", servers: addresses)
        #expect(try question.encode().withUnsafeBytes { try LookUpQuestion(decoding: $0) } == question)
        for outcome in [LookUpAnswer.Outcome.found(addresses, timeToLive: 7), .failed("no")] {
            let bytes = LookUpAnswer(host: "be.example", outcome: outcome).encode()
            #expect(
                try bytes.withUnsafeBytes { try LookUpAnswer(decoding: $0) }
                    == LookUpAnswer(host: "be.example", outcome: outcome))
            for count in bytes.indices {
                #expect(throws: MalformedBytes.self, "\(count)") {
                    try bytes[..<count].withUnsafeBytes { _ = try LookUpAnswer(decoding: $0) }
                }
            }
            #expect(throws: MalformedBytes.self) {
                try (bytes + [0]).withUnsafeBytes { _ = try LookUpAnswer(decoding: $0) }
            }
        }
    }

    @Test func `random bytes never crash the main process, and what they say can be said again`() throws {
        var generator = SystemRandomNumberGenerator()
        for _ in 0..<20_000 {
            let bytes = (0..<Int.random(in: 0...80, using: &generator)).map { _ in UInt8.random(in: 0...9) }
            if let answer = try? bytes.withUnsafeBytes({ try LookUpAnswer(decoding: $0) }) {
                #expect(try answer.encode().withUnsafeBytes { try LookUpAnswer(decoding: $0) } == answer)
            }
        }
    }

    @Test func `an answer with more addresses than a name may have is refused`() throws {
        let addresses = try (0..<65).map { try #require(SocketAddress(host: "192.0.2.\($0)", port: 0)) }
        #expect(throws: MalformedBytes.self) {
            try LookUpAnswer(host: "a", outcome: .found(addresses, timeToLive: 1)).encode().withUnsafeBytes {
                _ = try LookUpAnswer(decoding: $0)
            }
        }
    }
}
