import DTLSEngine
import DTLSTransport
import LinuxSystem

// A configuration, or what is wrong with it, as the bytes that go from one process to another.

extension Configuration {
    /// The snapshot that ``init(decoding:)`` reads.
    func encode() -> [UInt8] {
        var writer = ByteWriter()
        writer.integer(workers)
        writer.integer(stopTimeout)
        writer.string(logLevel.rawValue)
        writer.optional(cookieSecret) { $0.data($1) }
        tickets.write(to: &writer)
        writer.optional(keyLogFile) { $0.string($1) }
        writer.list(services) { $1.write(to: &$0) }
        writer.list(clients) { $1.write(to: &$0) }
        writer.list(staples) { $1.write(to: &$0) }
        writer.list(warnings) { $1.write(to: &$0) }
        limits.write(to: &writer)
        return writer.bytes
    }

    /// - Throws: when the bytes are not one whole snapshot and nothing else.
    init(decoding bytes: UnsafeRawBufferPointer) throws(MalformedBytes) {
        var reader = ByteReader(bytes)
        workers = try reader.integer()
        stopTimeout = try reader.integer()
        guard let level = LogLevel(rawValue: try reader.string()) else { throw MalformedBytes() }
        logLevel = level
        cookieSecret = try reader.optional { (reader) throws(MalformedBytes) in try reader.array() }
        tickets = try TicketConfiguration(from: &reader)
        keyLogFile = try reader.optionalString()
        services = try reader.list { (reader) throws(MalformedBytes) in try ServiceConfiguration(from: &reader) }
        clients = try reader.list { (reader) throws(MalformedBytes) in try ClientConfiguration(from: &reader) }
        staples = try reader.list { (reader) throws(MalformedBytes) in try StapleFile(from: &reader) }
        warnings = try reader.list { (reader) throws(MalformedBytes) in try ConfigurationProblem(from: &reader) }
        limits = try LimitsConfiguration(from: &reader)
        guard reader.isAtEnd else { throw MalformedBytes() }
    }
}

extension ConfigurationProblems {
    /// The bytes that ``init(decoding:)`` reads.
    func encode() -> [UInt8] {
        var writer = ByteWriter()
        writer.list(problems) { $1.write(to: &$0) }
        return writer.bytes
    }

    /// - Throws: when the bytes are not one whole list and nothing else.
    init(decoding bytes: UnsafeRawBufferPointer) throws(MalformedBytes) {
        var reader = ByteReader(bytes)
        problems = try reader.list { (reader) throws(MalformedBytes) in try ConfigurationProblem(from: &reader) }
        guard reader.isAtEnd else { throw MalformedBytes() }
    }
}

extension ConfigurationProblem {
    fileprivate func write(to writer: inout ByteWriter) {
        writer.string(file)
        writer.optional(line) { $0.integer($1) }
        writer.optional(key) { $0.string($1) }
        writer.string(message)
        writer.bool(isTransient)
    }

    fileprivate init(from reader: inout ByteReader) throws(MalformedBytes) {
        self.init(
            file: try reader.string(),
            line: try reader.optional { (reader) throws(MalformedBytes) in try reader.integer() },
            key: try reader.optional { (reader) throws(MalformedBytes) in try reader.string() },
            message: try reader.string(), isTransient: try reader.bool())
    }
}

extension ServiceConfiguration {
    fileprivate func write(to writer: inout ByteWriter) {
        writer.string(name)
        writer.list(listen) { $0.address($1) }
        tls.write(to: &writer)
        writer.integer(handshakeTimeout)
        writer.integer(idleTimeout)
        writer.integer(mtu)
        handler.write(to: &writer)
        socket.write(to: &writer)
        limits.write(to: &writer)
    }

    fileprivate init(from reader: inout ByteReader) throws(MalformedBytes) {
        name = try reader.string()
        listen = try reader.list { (reader) throws(MalformedBytes) in try reader.address() }
        tls = try ServerSettings(from: &reader)
        handshakeTimeout = try reader.integer()
        idleTimeout = try reader.integer()
        mtu = try reader.integer()
        handler = try HandlerConfiguration(from: &reader)
        socket = try SocketOptions(from: &reader)
        limits = try LimitsConfiguration(from: &reader)
    }
}

extension SocketOptions {
    func write(to writer: inout ByteWriter) {
        writer.optional(receiveBuffer) { $0.integer($1) }
        writer.optional(sendBuffer) { $0.integer($1) }
        writer.optional(timeToLive) { $0.integer($1) }
        writer.optional(interface) { $0.string($1) }
        writer.bool(ipv6Only)
        writer.optional(fragmentation) { $0.bool($1) }
    }

    init(from reader: inout ByteReader) throws(MalformedBytes) {
        self.init(
            receiveBuffer: try reader.optional { (reader) throws(MalformedBytes) in try reader.integer() },
            sendBuffer: try reader.optional { (reader) throws(MalformedBytes) in try reader.integer() },
            timeToLive: try reader.optional { (reader) throws(MalformedBytes) in try reader.integer() },
            interface: try reader.optional { (reader) throws(MalformedBytes) in try reader.string() },
            ipv6Only: try reader.bool(),
            fragmentation: try reader.optional { (reader) throws(MalformedBytes) in try reader.bool() })
    }
}
