import DTLSEngine
import DTLSTransport
import LinuxSystem
import Primitives

/// All that a server shows its clients: certificates, policy and secrets. It is the same in every task.
final class ServerIdentity {
    let option: DtlsServerOption
    /// The identities of the option's pre-shared keys.
    let presharedIdentities: Set<[UInt8]>
    private(set) var added: [DtlsCertificateOption]
    private let cookieSecret: [UInt8]
    private let ticketKeys: [UInt8]
    private let tickets: TicketKeyRing
    /// The sessions of clients without tickets; `nil` where they cannot resume theirs.
    private let sessions: SessionCache?
    let context: ServerContext
    let cookies: CookieAuthority

    private static let secretLength = 32

    convenience init(_ option: DtlsServerOption) throws(DtlsError) {
        let (secret, keys) = try DtlsError.system { () throws(SystemError) in
            (try RandomBytes.make(Self.secretLength), try RandomBytes.make(ServerContext.ticketKeyLength))
        }
        try self.init(option, added: [], cookieSecret: secret, ticketKeys: keys)
    }

    private init(
        _ option: DtlsServerOption, added: [DtlsCertificateOption], cookieSecret: [UInt8], ticketKeys: [UInt8]
    ) throws(DtlsError) {
        try option.check()
        self.option = option
        presharedIdentities = Set(option.presharedKeys.map(\.identity))
        self.added = []
        self.cookieSecret = cookieSecret
        self.ticketKeys = ticketKeys
        guard let key = TicketKey(ticketKeys) else {
            throw .credentials("a key of session tickets has \(TicketKey.length) bytes")
        }
        tickets = TicketKeyRing([key])
        sessions = SessionTable(byteCount: option.sessionCache).map { SessionCache($0) }
        do throws(CredentialsError) {
            context = try ServerContext(option.settings, tickets: tickets, sessions: sessions)
        } catch {
            throw DtlsError(error)
        }
        do throws(CookieError) {
            cookies = try CookieAuthority(secret: cookieSecret)
        } catch {
            throw .credentials(error.description)
        }
        if option.ipcert { context.chooseByAddress() }
        for certificate in added { try add(certificate) }
    }

    /// Adds a certificate for a name, or replaces the one that the name has. Changes nothing where it throws.
    func add(_ certificate: DtlsCertificateOption) throws(DtlsError) {
        try certificate.check()
        let name = certificate.name.lowercased()
        do throws(CredentialsError) {
            let identity = try ServerContext(
                certificate.settings(like: option), tickets: tickets, sessions: sessions,
                sessionIDContext: "name:\(name)")
            context.add(identity, for: name)
        } catch {
            throw DtlsError(error)
        }
        added.removeAll { $0.name.lowercased() == name }
        added.append(certificate)
    }

    // MARK: Coding

    func encode() -> [UInt8] {
        var writer = ByteWriter()
        func text(_ value: String?) { writer.optional(value) { $0.string($1) } }
        text(option.name)
        text(option.ca)
        writer.string(option.cert)
        text(option.key)
        text(option.passwd)
        writer.bool(option.ipcert)
        writer.bool(option.renegotiate)
        writer.integer(Int64(option.handshakeTimeout))
        writer.optional(option.connectionID) { $0.integer(Int64($1)) }
        writer.bool(option.sessionTickets)
        writer.integer(Int64(option.sessionCache))
        writer.optional(option.idleTimeout) { $0.integer(Int64($1)) }
        writer.list(option.presharedKeys) { writer, key in
            writer.data(key.identity)
            writer.data(key.key)
        }
        writer.bool(option.asksForPresharedKeys)
        writer.integer(option.clientCertificates.rawValue)
        writer.bool(option.asksAboutPeers)
        writer.list(added) { writer, certificate in
            writer.string(certificate.name)
            writer.optional(certificate.ca) { $0.string($1) }
            writer.string(certificate.cert)
            writer.optional(certificate.key) { $0.string($1) }
            writer.optional(certificate.passwd) { $0.string($1) }
        }
        writer.data(cookieSecret)
        writer.data(ticketKeys)
        return writer.bytes
    }

    static func decode(_ bytes: [UInt8]) throws -> ServerIdentity {
        try bytes.withUnsafeBytes { buffer in
            var reader = ByteReader(buffer)
            func text(_ reader: inout ByteReader) throws(MalformedBytes) -> String? {
                try reader.optional { reader throws(MalformedBytes) in try reader.string() }
            }
            func clientCertificates(_ reader: inout ByteReader) throws(MalformedBytes) -> DtlsClientCertificates {
                guard let value = DtlsClientCertificates(rawValue: try reader.integer(UInt8.self)) else {
                    throw MalformedBytes()
                }
                return value
            }
            let option = DtlsServerOption(
                name: try text(&reader), ca: try text(&reader), cert: try reader.string(), key: try text(&reader),
                passwd: try text(&reader), ipcert: try reader.bool(), renegotiate: try reader.bool(),
                handshakeTimeout: Int(try reader.integer(Int64.self)),
                connectionID: try reader.optional { reader throws(MalformedBytes) in
                    Int(try reader.integer(Int64.self))
                }, sessionTickets: try reader.bool(), sessionCache: Int(try reader.integer(Int64.self)),
                idleTimeout: try reader.optional { reader throws(MalformedBytes) in
                    Int(try reader.integer(Int64.self))
                },
                presharedKeys: try reader.list { reader throws(MalformedBytes) in
                    DtlsPresharedKey(identity: try reader.array(), key: try reader.array())
                }, asksForPresharedKeys: try reader.bool(), clientCertificates: try clientCertificates(&reader),
                asksAboutPeers: try reader.bool())
            let added = try reader.list { reader throws(MalformedBytes) in
                DtlsCertificateOption(
                    name: try reader.string(), ca: try text(&reader), cert: try reader.string(),
                    key: try text(&reader), passwd: try text(&reader))
            }
            return try ServerIdentity(
                option, added: added, cookieSecret: try reader.array(), ticketKeys: try reader.array())
        }
    }
}
