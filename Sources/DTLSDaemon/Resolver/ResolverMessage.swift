import DTLSTransport
import LinuxSystem
import Primitives

/// A question of the main process to the resolver: the addresses of one host name.
struct LookUpQuestion: Equatable {
    var host: String
    /// The name servers that are asked; empty: those of /etc/resolv.conf.
    var servers: [SocketAddress]

    func encode() -> [UInt8] {
        var writer = ByteWriter()
        writer.string(host)
        writer.list(servers) { $0.address($1) }
        return writer.bytes
    }

    init(host: String, servers: [SocketAddress]) {
        self.host = host
        self.servers = servers
    }

    init(decoding bytes: UnsafeRawBufferPointer) throws(MalformedBytes) {
        var reader = ByteReader(bytes)
        host = try reader.string()
        servers = try reader.list { reader throws(MalformedBytes) in try reader.address() }
        guard reader.isAtEnd else { throw MalformedBytes() }
    }
}

/// The resolver's answer to a ``LookUpQuestion``.
struct LookUpAnswer: Equatable {
    enum Outcome: Equatable {
        /// The addresses with port 0, those first that RFC 6724 prefers, and the shortest time to live of all records,
        /// in seconds.
        case found([SocketAddress], timeToLive: UInt32)
        /// There are none; why, in c-ares' words.
        case failed(String)
    }

    var host: String
    var outcome: Outcome

    /// What a resolver says in place of an answer when it cannot read the files any more that say whom to ask
    /// (``ResolverFiles``). It begins as an answer about no host does.
    static let wantsSuccessor: [UInt8] = LookUpAnswer(host: "", outcome: .failed("")).encode()

    /// The most addresses of a name. One datagram of a name server, without EDNS, has about 30.
    static let maximumAddresses = 64

    func encode() -> [UInt8] {
        var writer = ByteWriter()
        writer.string(host)
        switch outcome {
        case .found(let addresses, let timeToLive):
            writer.bool(true)
            writer.list(addresses) { $0.address($1) }
            writer.integer(timeToLive)
        case .failed(let reason):
            writer.bool(false)
            writer.string(reason)
        }
        return writer.bytes
    }

    init(host: String, outcome: Outcome) {
        self.host = host
        self.outcome = outcome
    }

    init(decoding bytes: UnsafeRawBufferPointer) throws(MalformedBytes) {
        var reader = ByteReader(bytes)
        host = try reader.string()
        if try reader.bool() {
            let addresses = try reader.list { reader throws(MalformedBytes) in try reader.address() }
            guard addresses.count <= Self.maximumAddresses else { throw MalformedBytes() }
            outcome = .found(addresses, timeToLive: try reader.integer())
        } else {
            outcome = .failed(try reader.string())
        }
        guard reader.isAtEnd else { throw MalformedBytes() }
    }
}
