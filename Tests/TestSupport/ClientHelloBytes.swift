/// A ClientHello of DTLS 1.2 as bytes, for a client that is no more than a socket.
package struct ClientHelloBytes {
    package let random: [UInt8] = (0..<32).map { _ in .random(in: 0...255) }

    package init() {}

    /// - Parameters:
    ///   - cookie: what a HelloVerifyRequest has given; empty for the first hello.
    ///   - number: the record's and the message's sequence number: 0 for the first hello, 1 for the second.
    ///   - versions: what supported_versions offers; without the extension where there are none.
    package func bytes(cookie: [UInt8] = [], number: Int = 0, versions: [UInt16] = []) -> [UInt8] {
        // ECDHE with AES-GCM, for either kind of key.
        let suites: [UInt8] = [0xc0, 0x2b, 0xc0, 0x2c, 0xc0, 0x2f, 0xc0, 0x30]
        // supported_groups: X25519 and P-256; ec_point_formats: uncompressed; signature_algorithms: ECDSA, RSA-PSS.
        let extensions: [UInt8] =
            [0x00, 0x0a, 0x00, 0x06, 0x00, 0x04, 0x00, 0x1d, 0x00, 0x17]
            + [0x00, 0x0b, 0x00, 0x02, 0x01, 0x00]
            + [0x00, 0x0d, 0x00, 0x06, 0x00, 0x04, 0x04, 0x03, 0x08, 0x04] + supportedVersions(versions)
        // One list of parts: for a chain of + the compiler of Swift 6.2 takes too long.
        let body: [[UInt8]] = [
            [0xfe, 0xfd], random, [0], bigEndian(cookie.count, 1), cookie, bigEndian(suites.count, 2), suites, [1, 0],
            bigEndian(extensions.count, 2), extensions,
        ]
        let length = body.reduce(0) { $0 + $1.count }
        let message: [[UInt8]] =
            [[1], bigEndian(length, 3), bigEndian(number, 2), bigEndian(0, 3), bigEndian(length, 3)] + body
        let record: [[UInt8]] = [[22, 0xfe, 0xff], bigEndian(0, 2), bigEndian(number, 6), bigEndian(length + 12, 2)]
        return Array((record + message).joined())
    }

    private func supportedVersions(_ versions: [UInt16]) -> [UInt8] {
        guard !versions.isEmpty else { return [] }
        let list = versions.flatMap { bigEndian(Int($0), 2) }
        let parts: [[UInt8]] = [[0x00, 0x2b], bigEndian(list.count + 1, 2), bigEndian(list.count, 1), list]
        return Array(parts.joined())
    }

    private func bigEndian(_ value: Int, _ count: Int) -> [UInt8] {
        (0..<count).map { UInt8(truncatingIfNeeded: value >> (8 * (count - 1 - $0))) }
    }
}

/// What a server has said to a ClientHello.
package enum HelloAnswer: Equatable {
    case helloVerifyRequest(cookie: [UInt8])
    case serverHello
    case other

    package init(_ datagram: [UInt8]) {
        // A record's header has 13 bytes, a handshake message's 12; its type comes first (RFC 6347, section 4.2.2).
        guard datagram.count > 28, datagram[0] == 22 else {
            self = .other
            return
        }
        switch datagram[13] {
        case 2: self = .serverHello
        // Version, length of the cookie, cookie.
        case 3: self = .helloVerifyRequest(cookie: Array(datagram.dropFirst(28).prefix(Int(datagram[27]))))
        default: self = .other
        }
    }
}
