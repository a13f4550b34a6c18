/// What a receiver makes of a header of the PROXY protocol, version 2: written after the protocol's text
/// (haproxy's doc/proxy-protocol.txt, section 2.2), not after the sender.
struct ParsedProxyHeader {
    struct Malformed: Error {
        var reason: String
        init(_ reason: String) { self.reason = reason }
    }

    /// The 14th byte: family and transport.
    var protocolByte: UInt8
    var source: [UInt8]
    var destination: [UInt8]
    var sourcePort: Int
    var destinationPort: Int
    var fields: [(type: UInt8, value: [UInt8])]
    /// What follows the header in the datagram.
    var payload: [UInt8]

    /// The value of PP2_TYPE_SSL.
    struct SSL {
        var client: UInt8
        var verify: UInt32
        var fields: [(type: UInt8, value: [UInt8])]

        func text(_ type: UInt8) -> String? { ParsedProxyHeader.text(type, fields) }
    }

    init(_ datagram: [UInt8]) throws {
        guard datagram.count >= 16, datagram.starts(with: [13, 10, 13, 10, 0, 13, 10, 81, 85, 73, 84, 10]) else {
            throw Malformed("no signature")
        }
        guard datagram[12] == 0x21 else { throw Malformed("version and command \(datagram[12])") }
        protocolByte = datagram[13]
        let end = 16 + Int(datagram[14]) * 256 + Int(datagram[15])
        guard end <= datagram.count else { throw Malformed("a length of \(end) in \(datagram.count) bytes") }
        payload = Array(datagram[end...])
        let size: Int
        switch protocolByte {
        case 0x12: size = 4
        case 0x22: size = 16
        default: throw Malformed("protocol \(protocolByte)")
        }
        let ports = 16 + 2 * size
        guard ports + 4 <= end else { throw Malformed("no room for the addresses") }
        source = Array(datagram[16..<(16 + size)])
        destination = Array(datagram[(16 + size)..<ports])
        sourcePort = Int(datagram[ports]) * 256 + Int(datagram[ports + 1])
        destinationPort = Int(datagram[ports + 2]) * 256 + Int(datagram[ports + 3])
        fields = try Self.fields(datagram[(ports + 4)..<end])
    }

    private static func fields(_ bytes: ArraySlice<UInt8>) throws -> [(type: UInt8, value: [UInt8])] {
        var rest = bytes
        var result: [(UInt8, [UInt8])] = []
        while !rest.isEmpty {
            guard rest.count >= 3 else { throw Malformed("\(rest.count) bytes after the last field") }
            let head = Array(rest.prefix(3))
            let size = Int(head[1]) * 256 + Int(head[2])
            rest = rest.dropFirst(3)
            guard size <= rest.count else { throw Malformed("a field of \(size) bytes with \(rest.count) left") }
            result.append((head[0], Array(rest.prefix(size))))
            rest = rest.dropFirst(size)
        }
        return result
    }

    fileprivate static func text(_ type: UInt8, _ fields: [(type: UInt8, value: [UInt8])]) -> String? {
        let found = fields.filter { $0.type == type }
        guard found.count == 1 else { return nil }
        return String(validating: found[0].value, as: UTF8.self)
    }

    /// The text of a type that is there once.
    func text(_ type: UInt8) -> String? { Self.text(type, fields) }

    func ssl() throws -> SSL {
        let found = fields.filter { $0.type == 0x20 }
        guard found.count == 1, found[0].value.count >= 5 else { throw Malformed("not one PP2_TYPE_SSL") }
        let value = found[0].value
        return SSL(
            client: value[0], verify: value[1..<5].reduce(0) { $0 << 8 | UInt32($1) },
            fields: try Self.fields(value[5...]))
    }
}
