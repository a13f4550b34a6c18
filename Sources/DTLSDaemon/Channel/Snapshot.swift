import DTLSEngine
import DTLSKit
import LinuxSystem

/// All that a worker needs to serve: the configuration, and the secrets that all workers share.
struct Snapshot {
    let configuration: Configuration
    /// ``ServerContext/ticketKeyLength`` bytes: any worker resumes any other's sessions.
    let ticketKeys: [UInt8]

    /// What cookies are made with, by the acceptor and the workers alike.
    let cookieSecret: [UInt8]

    init(configuration: Configuration, ticketKeys: [UInt8], cookieSecret: [UInt8]) {
        self.configuration = configuration
        self.ticketKeys = ticketKeys
        self.cookieSecret = cookieSecret
    }

    init(decoding bytes: UnsafeRawBufferPointer) throws(MalformedBytes) {
        var reader = ByteReader(bytes)
        ticketKeys = try reader.array()
        cookieSecret = try reader.array()
        configuration = try Configuration(decoding: try reader.data())
    }

    func encode() -> [UInt8] {
        var writer = ByteWriter()
        writer.data(ticketKeys)
        writer.data(cookieSecret)
        writer.data(configuration.encode())
        return writer.bytes
    }
}
