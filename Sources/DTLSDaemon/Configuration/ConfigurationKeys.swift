// Every key that a configuration file may hold, by table. config/dtlsd.toml documents each of them.

/// The keys before the first table.
enum MainKey: String, CaseIterable {
    case workers
    case stopTimeout = "stop_timeout"
    case logLevel = "log_level"
    case cookieSecretFile = "cookie_secret_file"
    case keyLogFile = "key_log_file"
    case tickets
    case limits, service, client
}

/// The keys of `[service.NAME]`.
enum ServiceKey: String, CaseIterable {
    case listen, certificate
    case privateKey = "private_key"
    case passphraseFile = "passphrase_file"
    case staple = "ocsp_staple"
    case name
    case unknownName = "unknown_name"
    case byAddress = "by_address"
    case authorities = "ca"
    case clientCertificate = "client_certificate"
    case revocationLists = "crl"
    case clients
    case handshakeTimeout = "handshake_timeout"
    case idleTimeout = "idle_timeout"
    case policy, ciphers
    case minimumVersion = "minimum_version"
    case maximumVersion = "maximum_version"
    case applicationProtocols = "alpn"
    case renegotiation
    case mtu, handler, forward, exec, log, socket, limits
    case presharedKeys = "psk"
    case resumption
}

/// The keys of `[service.NAME.name."HOST"]`.
enum NameKey: String, CaseIterable {
    case certificate
    case privateKey = "private_key"
    case passphraseFile = "passphrase_file"
    case staple = "ocsp_staple"
}

/// The keys of `[service.NAME.forward]`.
enum ForwardKey: String, CaseIterable {
    case backend
    case proxyProtocol = "proxy_protocol"
}

/// The keys of `[service.NAME.socket]`.
enum SocketKey: String, CaseIterable {
    case receiveBuffer = "receive_buffer"
    case sendBuffer = "send_buffer"
    case timeToLive = "ttl"
    case interface
    case ipv6Only = "ipv6_only"
    case fragment
}

/// The words for a key that is not known in its table.
enum UnknownKey {
    /// - Parameter known: the keys of the table that `key` stands in.
    static func message(_ key: String, known: [String]) -> String {
        if let name = nearest(key, of: known) { return "unknown key; did you mean \"\(name)\"?" }
        if let place = otherPlace(of: key.lowercased()) { return "unknown key here; it \(place)" }
        return "unknown key; expected one of \(known.joined(separator: ", "))"
    }

    /// The known key that a mistyped one may have been meant for.
    static func nearest(_ key: String, of known: [String]) -> String? {
        let key = key.lowercased()
        let near = known.map { (name: $0, distance: editDistance(key, $0)) }.min { $0.distance < $1.distance }
        return near.flatMap { $0.distance <= max(1, $0.name.utf8.count / 3) ? $0.name : nil }
    }

    private static func otherPlace(of key: String) -> String? {
        if SocketKey(rawValue: key) != nil { return "belongs in [service.NAME.socket]" }
        if TicketsKey(rawValue: key) != nil { return "belongs in [tickets]" }
        if PresharedKeysKey(rawValue: key) != nil { return "belongs in [service.NAME.psk]" }
        if ForwardKey(rawValue: key) != nil { return "belongs in [service.NAME.forward]" }
        if ClientsKey(rawValue: key) != nil { return "belongs in [service.NAME.clients]" }
        if ExecKey(rawValue: key) != nil { return "belongs in [service.NAME.exec]" }
        if LogKey(rawValue: key) != nil { return "belongs in [service.NAME.log]" }
        if LimitsKey(rawValue: key) != nil { return "belongs in [service.NAME.limits] or [limits]" }
        if ServiceKey(rawValue: key) != nil { return "belongs in [service.NAME]" }
        if ClientPresharedKeyKey(rawValue: key) != nil { return "belongs in [client.NAME.psk]" }
        if ClientKey(rawValue: key) != nil { return "belongs in [client.NAME]" }
        switch MainKey(rawValue: key) {
        case nil: return nil
        case .tickets: return "is a table of its own, [tickets]"
        case .service, .client: return "begins a table of its own, [\(key).NAME]"
        default: return "belongs before the first [table]"
        }
    }

    /// Letters to insert, delete or replace until `one` is `other` (Levenshtein). Long keys are not worth the time.
    private static func editDistance(_ one: String, _ other: String) -> Int {
        let one = Array(one.utf8.prefix(64))
        let other = Array(other.utf8)
        var row = Array(0...other.count)
        for (index, letter) in one.enumerated() {
            var diagonal = row[0]
            row[0] = index + 1
            for column in other.indices {
                let replaced = diagonal + (letter == other[column] ? 0 : 1)
                diagonal = row[column + 1]
                row[column + 1] = min(replaced, row[column] + 1, diagonal + 1)
            }
        }
        return row[other.count]
    }
}
