import DTLSTransport
import LinuxSystem

// Limits as the bytes that go from one process to another.

extension LimitsConfiguration {
    func write(to writer: inout ByteWriter) {
        writer.optional(connections) { $0.integer($1) }
        writer.optional(connectionsPerPrefix) { $0.integer($1) }
        writer.optional(handshakes) { $0.integer($1) }
        writer.rate(handshakesPerSecond)
        writer.rate(handshakesPerSecondPerPrefix)
        writer.integer(prefixes.ipv4)
        writer.integer(prefixes.ipv6)
        writer.optional(traffic.largestDatagram) { $0.integer($1) }
        writer.rate(traffic.datagramsPerSecond)
        writer.rate(traffic.bytesPerSecond)
        writer.optional(access) { writer, access in
            access.ipv4.write(to: &writer)
            access.ipv6.write(to: &writer)
        }
    }

    init(from reader: inout ByteReader) throws(MalformedBytes) {
        self.init(
            connections: try reader.optionalInteger(), connectionsPerPrefix: try reader.optionalInteger(),
            handshakes: try reader.optionalInteger(), handshakesPerSecond: try reader.rate(),
            handshakesPerSecondPerPrefix: try reader.rate(),
            prefixes: NetworkPrefix.Lengths(ipv4: try reader.integer(), ipv6: try reader.integer()),
            traffic: TrafficLimits(
                largestDatagram: try reader.optionalInteger(), datagramsPerSecond: try reader.rate(),
                bytesPerSecond: try reader.rate()),
            access: try reader.optional { (reader) throws(MalformedBytes) in
                AccessList(ipv4: try AccessList.Ranges(from: &reader), ipv6: try AccessList.Ranges(from: &reader))
            })
    }
}

extension AccessList.Ranges {
    fileprivate func write(to writer: inout ByteWriter) {
        writer.list(starts) { $0.integer($1) }
        writer.list(allows) { $0.bool($1) }
    }

    fileprivate init(from reader: inout ByteReader) throws(MalformedBytes) {
        let starts = try reader.list { (reader) throws(MalformedBytes) in try reader.integer(UInt128.self) }
        let allows = try reader.list { (reader) throws(MalformedBytes) in try reader.bool() }
        guard let ranges = Self(starts: starts, allows: allows) else { throw MalformedBytes() }
        self = ranges
    }
}

extension ByteWriter {
    fileprivate mutating func rate(_ rate: Rate?) {
        optional(rate) { $0.integer($1.perThousandSeconds) }
    }
}

extension ByteReader {
    fileprivate mutating func optionalInteger() throws(MalformedBytes) -> Int? {
        try optional { (reader) throws(MalformedBytes) in try reader.integer() }
    }

    fileprivate mutating func rate() throws(MalformedBytes) -> Rate? {
        try optionalInteger().map(Rate.init(perThousandSeconds:))
    }
}
