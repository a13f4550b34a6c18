import DTLSEngine
import DTLSTransport
import LinuxSystem
import Primitives

/// All that a server shows its clients: certificates, policy and secrets. It is the same in every task.
package final class ServerIdentity {
    package let option: DtlsServerOption
    /// The identities of the option's pre-shared keys.
    package let presharedIdentities: Set<[UInt8]>
    private(set) var added: [DtlsCertificateOption]
    private let cookieSecret: [UInt8]
    /// The first one seals.
    private var ticketKeys: [[UInt8]]
    private let tickets: TicketKeyRing
    /// The sessions of clients without tickets; `nil` where they cannot resume theirs.
    private let sessions: SessionCache?
    package let context: ServerContext
    package let cookies: CookieAuthority

    private static let secretLength = 32

    package convenience init(_ option: DtlsServerOption) throws(DtlsError) {
        let (secret, keys) = try DtlsError.system { () throws(SystemError) in
            (try RandomBytes.make(Self.secretLength), try RandomBytes.make(ServerContext.ticketKeyLength))
        }
        try self.init(
            option, added: [], cookieSecret: secret, ticketKeys: option.ticketKeys.isEmpty ? [keys] : option.ticketKeys)
    }

    private init(
        _ option: DtlsServerOption, added: [DtlsCertificateOption], cookieSecret: [UInt8], ticketKeys: [[UInt8]]
    ) throws(DtlsError) {
        try option.check()
        self.option = option
        presharedIdentities = Set(option.presharedKeys.map(\.identity))
        self.added = []
        self.cookieSecret = cookieSecret
        self.ticketKeys = ticketKeys
        tickets = TicketKeyRing(ticketKeys.compactMap { TicketKey($0) })
        sessions = SessionTable(byteCount: option.sessionCache).map { SessionCache($0) }
        let settings = try option.makeSettings()
        do throws(CredentialsError) {
            context = try ServerContext(settings, tickets: tickets, sessions: sessions)
        } catch {
            throw DtlsError(error)
        }
        do throws(CookieError) {
            cookies = try CookieAuthority(secret: cookieSecret)
        } catch {
            throw .credentials(error.description)
        }
        if let keyLog = option.keyLog { context.logKeys(to: keyLog.engineLog) }
        if option.ipcert { context.chooseByAddress() }
        for certificate in added { try add(certificate) }
    }

    /// Adds a certificate for a name, or replaces the one that the name has. Changes nothing where it throws.
    package func add(_ certificate: DtlsCertificateOption) throws(DtlsError) {
        try certificate.check()
        let name = certificate.name.lowercased()
        let settings = try certificate.settings(like: option)
        do throws(CredentialsError) {
            let identity = try ServerContext(
                settings, tickets: tickets, sessions: sessions,
                sessionIDContext: "name:\(name)")
            if let keyLog = option.keyLog { identity.logKeys(to: keyLog.engineLog) }
            context.add(identity, for: name)
        } catch {
            throw DtlsError(error)
        }
        added.removeAll { $0.name.lowercased() == name }
        added.append(certificate)
    }

    /// Seals tickets with the first of these keys, and opens them with all, from now on.
    func setTicketKeys(_ keys: [[UInt8]]) throws(DtlsError) {
        try TicketKeys.check(keys)
        guard !keys.isEmpty else {
            throw .invalid("there must be one ticket key; where there are to be no tickets, unset sessionTickets")
        }
        ticketKeys = keys
        tickets.keys = keys.compactMap { TicketKey($0) }
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
        text(option.ciphers)
        text(option.groups)
        writer.string(option.minimumVersion.rawValue)
        text(option.maximumVersion?.rawValue)
        writer.list(option.applicationProtocols) { $0.string($1) }
        for texts in [option.clientRules.allow, option.clientRules.deny, option.clientRules.revocationLists] {
            writer.list(texts) { $0.string($1) }
        }
        writer.list(option.clientPublicKeys) { writer, key in
            writer.string(key.name)
            writer.data(key.fingerprint)
        }
        writer.bool(option.showsRawPublicKey)
        writer.optional(option.ocspResponse) { $0.data($1) }
        writer.bool(option.exportsKeys)
        writer.list(option.srtpProfiles) { $0.integer($1.rawValue) }
        writer.list(added) { writer, certificate in
            writer.string(certificate.name)
            writer.optional(certificate.ca) { $0.string($1) }
            writer.string(certificate.cert)
            writer.optional(certificate.key) { $0.string($1) }
            writer.optional(certificate.passwd) { $0.string($1) }
            writer.optional(certificate.ocspResponse) { $0.data($1) }
        }
        writer.data(cookieSecret)
        writer.list(ticketKeys) { $0.data($1) }
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
            func version(_ text: String) throws(MalformedBytes) -> DtlsVersion {
                guard let version = DtlsVersion(rawValue: text) else { throw MalformedBytes() }
                return version
            }
            func texts(_ reader: inout ByteReader) throws(MalformedBytes) -> [String] {
                try reader.list { reader throws(MalformedBytes) in try reader.string() }
            }
            func bytes(_ reader: inout ByteReader) throws(MalformedBytes) -> [UInt8]? {
                try reader.optional { reader throws(MalformedBytes) in try reader.array() }
            }
            var option = DtlsServerOption(
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
            option.ciphers = try text(&reader)
            option.groups = try text(&reader)
            option.minimumVersion = try version(try reader.string())
            option.maximumVersion = try text(&reader).map(version)
            option.applicationProtocols = try texts(&reader)
            option.clientRules.allow = try texts(&reader)
            option.clientRules.deny = try texts(&reader)
            option.clientRules.revocationLists = try texts(&reader)
            for _ in 0..<(try reader.integer(UInt32.self)) {
                option.clientPublicKeys.append(
                    try DtlsPublicKey(name: try reader.string(), fingerprint: try reader.array()))
            }
            option.showsRawPublicKey = try reader.bool()
            option.ocspResponse = try bytes(&reader)
            option.exportsKeys = try reader.bool()
            option.srtpProfiles = try reader.list { reader throws(MalformedBytes) in
                guard let profile = DtlsSrtpProfile(rawValue: try reader.integer(UInt16.self)) else {
                    throw MalformedBytes()
                }
                return profile
            }
            let added = try reader.list { reader throws(MalformedBytes) in
                DtlsCertificateOption(
                    name: try reader.string(), ca: try text(&reader), cert: try reader.string(),
                    key: try text(&reader), passwd: try text(&reader), ocspResponse: try bytes(&reader))
            }
            return try ServerIdentity(
                option, added: added, cookieSecret: try reader.array(),
                ticketKeys: try reader.list { reader throws(MalformedBytes) in try reader.array() })
        }
    }
}
