import LinuxSystem
import Testing

@testable import DTLSDaemon

@Suite struct ProxyHeaderTests {
    private func header(_ source: String, _ destination: String) throws -> ProxyHeader {
        ProxyHeader(
            source: try #require(SocketAddress(source)), destination: try #require(SocketAddress(destination)),
            version: "DTLSv1.2", cipher: "ECDHE-ECDSA-AES128-GCM-SHA256")
    }

    /// Byte by byte, from the tables of the protocol's section 2.2.
    @Test func `a small header has the bytes of the specification`() throws {
        var header = try header("192.0.2.1:4660", "198.51.100.2:443")
        header.version = "V"
        header.cipher = "C"
        header.serverName = "a.b"
        var expected: [UInt8] = [13, 10, 13, 10, 0, 13, 10, 0x51, 0x55, 0x49, 0x54, 10]
        // Version 2 and PROXY; IPv4 and DGRAM; 12 bytes of addresses, 6 of SNI, 3 + 5 + 4 + 4 of SSL.
        expected += [0x21, 0x12, 0, 34]
        expected += [192, 0, 2, 1] + [198, 51, 100, 2] + [0x12, 0x34] + [0x01, 0xbb]
        expected += [0x02, 0, 3] + Array("a.b".utf8)
        // A client of TLS without a certificate, so the verification is not 0.
        expected += [0x20, 0, 13, 0x01, 0, 0, 0, 1]
        expected += [0x21, 0, 1] + Array("V".utf8) + [0x23, 0, 1] + Array("C".utf8)
        #expect(header.bytes == expected)
    }

    /// The same over IPv6, with a certificate.
    @Test func `a header with a common name has the bytes of the specification`() throws {
        var header = try header("[2001:db8::7]:4660", "[2001:db8::1]:443")
        header.version = "V"
        header.cipher = "C"
        header.client = .certificate(commonName: "lamp", isShownNow: true, verification: 0)
        let network: [UInt8] = [0x20, 0x01, 0x0d, 0xb8] + [UInt8](repeating: 0, count: 11)
        // IPv6 and DGRAM; 36 bytes of addresses, 3 + 5 + 4 + 7 + 4 of SSL.
        var expected: [UInt8] = [13, 10, 13, 10, 0, 13, 10, 0x51, 0x55, 0x49, 0x54, 10, 0x21, 0x22, 0, 59]
        expected += network + [7] + network + [1] + [0x12, 0x34] + [0x01, 0xbb]
        // TLS, a certificate on this connection and in its session; it is good.
        expected += [0x20, 0, 20, 0x07, 0, 0, 0, 0]
        expected += [0x21, 0, 1] + Array("V".utf8) + [0x22, 0, 4] + Array("lamp".utf8)
        expected += [0x23, 0, 1] + Array("C".utf8)
        #expect(header.bytes == expected)
    }

    @Test func `a receiver finds all fields`() throws {
        var header = try header("[2001:db8::7]:50000", "[2001:db8::1]:5684")
        header.applicationProtocol = Array("coap".utf8)
        header.serverName = "sensors.example.org"
        header.client = .certificate(commonName: "sensor-7 ä", isShownNow: true, verification: 0)
        let parsed = try ParsedProxyHeader(header.bytes + Array("message".utf8))
        #expect(parsed.protocolByte == 0x22)
        #expect(parsed.source == [0x20, 0x01, 0x0d, 0xb8] + [UInt8](repeating: 0, count: 11) + [7])
        #expect(parsed.destination == [0x20, 0x01, 0x0d, 0xb8] + [UInt8](repeating: 0, count: 11) + [1])
        #expect(parsed.sourcePort == 50_000 && parsed.destinationPort == 5_684)
        #expect(parsed.text(0x01) == "coap")
        #expect(parsed.text(0x02) == "sensors.example.org")
        #expect(parsed.fields.count == 3)
        let ssl = try parsed.ssl()
        #expect(ssl.client == 0x07 && ssl.verify == 0)
        #expect(ssl.text(0x21) == "DTLSv1.2")
        #expect(ssl.text(0x22) == "sensor-7 ä")
        #expect(ssl.text(0x23) == "ECDHE-ECDSA-AES128-GCM-SHA256")
        #expect(String(decoding: parsed.payload, as: UTF8.self) == "message")
    }

    /// A dual-stack listener sees its IPv4 clients inside IPv6 addresses: to the backend they are IPv4 clients.
    @Test func `IPv4 addresses inside IPv6 addresses are written as IPv4`() throws {
        let parsed = try ParsedProxyHeader(try header("[::ffff:192.0.2.1]:1", "[::ffff:192.0.2.2]:2").bytes)
        #expect(parsed.protocolByte == 0x12)
        #expect(parsed.source == [192, 0, 2, 1] && parsed.destination == [192, 0, 2, 2])
        #expect(parsed.sourcePort == 1 && parsed.destinationPort == 2)
    }

    @Test func `the header says who the client is`() throws {
        var header = try header("192.0.2.1:1", "192.0.2.2:2")
        func ssl(_ client: ProxyHeader.Client) throws -> ParsedProxyHeader.SSL {
            header.client = client
            return try ParsedProxyHeader(header.bytes).ssl()
        }
        let anonymous = try ssl(.anonymous)
        #expect(anonymous.client == 0x01 && anonymous.verify != 0 && anonymous.text(0x22) == nil)
        // Shown once in the session (4), not on this connection (2).
        let resumed = try ssl(.certificate(commonName: "x", isShownNow: false, verification: 0))
        #expect(resumed.client == 0x05 && resumed.verify == 0 && resumed.text(0x22) == "x")
        let bad = try ssl(.certificate(commonName: nil, isShownNow: true, verification: 18))
        #expect(bad.client == 0x07 && bad.verify == 18 && bad.text(0x22) == nil)
        let bare = try ssl(.publicKey(name: "sensor-7"))
        #expect(bare.client == 0x01 && bare.verify != 0)
        #expect(try ParsedProxyHeader(header.bytes).text(0xe2) == "sensor-7")
        let key = try ssl(.presharedKey(identity: [0xff] + Array("lamp".utf8)))
        #expect(key.client == 0x01 && key.verify != 0)
        // Its bytes, whatever they are.
        let fields = try ParsedProxyHeader(header.bytes).fields
        #expect(fields.map(\.type) == [0x20, 0xe0] && fields.last?.value == [0xff] + Array("lamp".utf8))
    }

    /// A name that is cut, or that ends early for a receiver in C, would be another's: it is left out.
    @Test(arguments: [String(repeating: "x", count: 256), "admin\0.example.org"])
    func `names that could be mistaken are left out`(_ name: String) throws {
        var header = try header("192.0.2.1:1", "192.0.2.2:2")
        header.client = .certificate(commonName: name, isShownNow: true, verification: 0)
        #expect(try ParsedProxyHeader(header.bytes).ssl().fields.map(\.type) == [0x21, 0x23])
    }

    /// With the longest names the header and the longest message are still one datagram of IPv4.
    @Test func `the longest header and the longest message fit one datagram`() throws {
        var header = try header("[2001:db8::7]:50000", "[2001:db8::1]:5684")
        let longest = String(repeating: "x", count: ProxyHeader.longestText)
        header.applicationProtocol = Array(longest.utf8)
        header.serverName = longest
        header.client = .presharedKey(identity: Array(longest.utf8))
        #expect(try ParsedProxyHeader(header.bytes).text(0xe0) == longest)
        #expect(header.bytes.count + 16_384 <= 65_507)
    }
}
