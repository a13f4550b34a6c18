import Testing

@testable import DTLSDaemon

@Suite struct ConfigurationListenerTests {
    private func problems(_ services: [(name: String, lines: String)]) throws -> [String] {
        let folder = try ConfigurationFolder()
        let text = services.map { service in
            """
            [service.\(service.name)]
            certificate = "server.pem"
            private_key = "server.key"
            handler = "echo"
            \(service.lines)

            """
        }
        return try folder.problems(text.joined())
    }

    static let wrongAddresses: [(String, String)] = [
        ("[::ffff:192.0.2.1]:1", "is an IPv4 address inside an IPv6 one; expected the IPv4 address itself"),
        ("224.0.0.1:1", "is not the address of a single machine; expected a unicast address or 0.0.0.0"),
        ("255.255.255.255:1", "is not the address of a single machine; expected a unicast address or 0.0.0.0"),
        ("[ff02::1]:1", "is not the address of a single machine; expected a unicast address or [::]"),
        ("[fe80::1]:1", "is a link-local address without its interface; expected [fe80::1%INTERFACE]:1"),
    ]

    @Test(arguments: wrongAddresses)
    func `an address that nothing can be bound to is refused`(_ address: String, _ reason: String) throws {
        #expect(
            try problems([("a", "listen = \"\(address)\"")]) == ["dtlsd.toml:5: service.a.listen: \(address) \(reason)"]
        )
    }

    @Test(arguments: ["", "4433", "0.0.0.0", "0.0.0.0:0", "0.0.0.0:65536", "::1:4433", "*:4433", "[0.0.0.0]:4433"])
    func `a text that is not an address is refused`(_ text: String) throws {
        #expect(
            try problems([("a", "listen = \"\(text)\"")]) == [
                "dtlsd.toml:5: service.a.listen: expected \"ADDRESS:PORT\" or \"[IPv6 ADDRESS]:PORT\", "
                    + "the address in numbers, the port 1 to 65535, found the string \"\(text)\""
            ])
    }

    /// The kernel treats both as the same address, which two sockets would share.
    @Test func `only a link-local address may have an interface`() throws {
        let found = try problems([("a", "listen = [\"[::1]:21000\", \"[::1%lo]:21000\", \"[fe80::1%lo]:21000\"]")])
        #expect(found.count == 1)
        #expect(
            found.first?.hasSuffix(
                "]:21000 has an interface, which only a link-local address needs; expected [::1]:21000") == true)
    }

    @Test func `an empty array of addresses is refused`() throws {
        #expect(
            try problems([("a", "listen = []")]) == [
                "dtlsd.toml:5: service.a.listen: expected \"ADDRESS:PORT\" or \"[IPv6 ADDRESS]:PORT\", "
                    + "the address in numbers, the port 1 to 65535, found an empty array"
            ])
    }

    private func collision(_ one: String, _ other: String) -> String {
        "dtlsd.toml:10: service.b.listen: \(other) collides with \(one) of service.a.listen (line 5); "
            + "expected an address and port that nothing else listens on"
    }

    @Test(arguments: [
        ("0.0.0.0:4433", "0.0.0.0:4433"), ("[::]:4433", "[::]:4433"), ("[2001:db8::1]:4433", "[2001:db8:0::1]:4433"),
    ])
    func `an address that is listed twice is refused`(_ one: String, _ other: String) throws {
        let shown = one.replacing("2001:db8:0::1", with: "2001:db8::1")
        #expect(
            try problems([("a", "listen = \"\(one)\""), ("b", "listen = [\"\(other)\"]")]) == [collision(shown, shown)])
    }

    @Test func `a dual-stack wildcard collides with the IPv4 wildcard`() throws {
        let dual = "socket.ipv6_only = false"
        #expect(
            try problems([
                ("a", "listen = \"[::]:4433\""), ("b", "listen = \"0.0.0.0:4433\""),
            ])
                == [])
        #expect(
            try problems([("a", "listen = \"0.0.0.0:4433\""), ("b", "listen = \"[::]:4433\"\n\(dual)")])
                == [collision("0.0.0.0:4433", "[::]:4433")])
        #expect(
            try problems([("a", "listen = \"[::]:4433\"\n\(dual)"), ("b", "listen = \"0.0.0.0:4433\"")]).count == 1)
        #expect(
            try problems([("a", "listen = [\"[::]:4433\", \"0.0.0.0:4433\"]\n\(dual)")]) == [
                "dtlsd.toml:5: service.a.listen: 0.0.0.0:4433 collides with [::]:4433 of service.a.listen (line 5); "
                    + "expected an address and port that nothing else listens on"
            ])
    }

    @Test func `different addresses, ports and interfaces do not collide`() throws {
        #expect(
            try problems([
                ("a", "listen = [\"0.0.0.0:4433\", \"127.0.0.1:4433\", \"0.0.0.0:4434\"]"),
                ("b", "listen = [\"127.0.0.2:4433\", \"[::1]:4433\", \"[::]:4433\"]"),
                ("c", "listen = \"0.0.0.0:4433\"\nsocket.interface = \"lo\""),
            ]) == [])
    }
}
