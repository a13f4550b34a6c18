import DTLSTransport
import LinuxSystem

/// All that a worker needs to serve: the configuration, and the cookie secret that all workers share. The keys of
/// session tickets, which change by themselves, come as a message of their own.
struct Snapshot {
    let configuration: Configuration
    /// What cookies are made with, by the acceptor and the workers alike.
    let cookieSecret: [UInt8]

    init(configuration: Configuration, cookieSecret: [UInt8]) {
        self.configuration = configuration
        self.cookieSecret = cookieSecret
    }

    init(decoding bytes: UnsafeRawBufferPointer) throws(MalformedBytes) {
        var reader = ByteReader(bytes)
        cookieSecret = try reader.array()
        configuration = try Configuration(decoding: try reader.data())
    }

    func encode() -> [UInt8] {
        var writer = ByteWriter()
        writer.data(cookieSecret)
        writer.data(configuration.encode())
        return writer.bytes
    }
}
