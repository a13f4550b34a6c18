import LinuxSystem
import Testing

@Suite struct AddressPatternTests {
    private func address(_ text: String) throws -> SocketAddress { try #require(SocketAddress(text), "\(text)") }

    @Test(arguments: [
        ("192.0.2.7", "192.0.2.7:1", "192.0.2.8:1"), ("192.0.2.0/24", "192.0.2.255:9", "192.0.3.0:9"),
        ("192.0.2.7:4711", "192.0.2.7:4711", "192.0.2.7:4712"),
        ("2001:db8::/32", "[2001:db8:1::7]:1", "[2001:db9::]:1"),
        ("[2001:db8::1]:4711", "[2001:db8::1]:4711", "[2001:db8::1]:1"), ("0.0.0.0/0", "255.255.255.255:1", "[::1]:1"),
        ("192.0.2.7", "[::ffff:192.0.2.7]:1", "[::192.0.2.7]:1"),
    ])
    func `a pattern matches its own addresses alone, and is written as it was read`(
        _ text: String, _ inside: String, _ outside: String
    ) throws {
        let pattern = try AddressPattern(parsing: text)
        #expect(pattern.matches(try address(inside)))
        #expect(!pattern.matches(try address(outside)))
        #expect("\(pattern)" == text)
        #expect(try AddressPattern(parsing: "\(pattern)") == pattern)
    }

    @Test(arguments: [
        "", "x", "192.0.2.7:", "192.0.2.7:65536", "192.0.2.7/33", "192.0.2.7/24", "2001:db8::1/32", "::1:x",
    ])
    func `what is no address is refused`(_ text: String) {
        #expect(throws: NetworkPrefix.Mistake.self) { _ = try AddressPattern(parsing: text) }
    }
}
