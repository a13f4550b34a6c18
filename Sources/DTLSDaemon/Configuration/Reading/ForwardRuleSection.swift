import DTLSEngine

/// `[service.NAME.forward.rule.RULE]`
struct ForwardRuleSection {
    fileprivate var serverNames: [BytePattern] = []
    fileprivate var applicationProtocols: [BytePattern] = []
    fileprivate var identities: [BytePattern] = []
    fileprivate var certificateNames: [Element<PeerRule>] = []
    fileprivate var publicKeys: [BytePattern] = []
    fileprivate var labels: [BytePattern] = []
    fileprivate var backends: [Element<Backend>] = []
    fileprivate var refuses = false

    static let schema = Schema<Self>(
        {
            Key(
                "server_name", \.serverNames, .serverNamePatterns, default: "none; any name, and none",
                doc: "The server names (SNI) of the rule's clients, or patterns of them.")
            Key(
                "alpn", \.applicationProtocols, .patterns("an application protocol"),
                default: "none; any protocol, and none",
                doc: "The application protocols (ALPN) of the rule's clients, or patterns of them.")
            Key(
                "identity", \.identities, .patterns("an identity of a pre-shared key"),
                default: "none; any identity, and none",
                doc: "The identities of the pre-shared keys of the rule's clients, or patterns of them.")
            Key(
                "certificate_name", \.certificateNames, .peerRules, default: "none; any certificate, and none",
                doc: "The names in the certificates of the rule's clients, in the form of [service.NAME.clients].")
            Key(
                "public_key", \.publicKeys, .patterns("a name of a raw public key"),
                default: "none; any raw public key, and none",
                doc:
                    "The names of the raw public keys of the rule's clients in client_public_keys, or patterns of them."
            )
            Key(
                "label", \.labels, .patterns("a label of an authorizer's answer"), default: "none; any label, and none",
                doc: "The labels of the rule's clients, as the authorizer's answers have them, or patterns of them.")
            Key(
                "backend", \.backends, .backends, default: "none; refuse is true",
                doc: "The backend that datagrams of the rule's clients are passed to, or several.")
            Key("refuse", \.refuses, .flag, doc: "Whether the rule's clients are refused.")
        },
        check: { table, section in section.check(table) })

    private func check(_ table: TableReader<Self>) {
        if conditions.isEmpty, !Self.conditions.contains(where: { table.has($0.property) }) {
            let names = Self.conditions.map { Self.schema.name(of: $0.property) }
            table.context.report(
                table.path,
                "the rule has no condition, so that those below it would never be looked at; expected"
                    + " \(ReadContext.alternatives(names)), or the backends of all other clients in"
                    + " [service.NAME.forward]")
        }
        if refuses, table.has(\.backends) {
            table.report(\.refuses, "a rule that refuses its clients has no backend; expected one of the two")
        }
        if !refuses, !table.has(\.backends) {
            table.context.report(
                table.path, "the rule says not where its clients go; expected backend, or refuse = true")
        }
    }

    private static var conditions:
        [(property: PartialKeyPath<Self>, hasEffect: (TableReader<ServiceSection>) -> Bool, need: String)]
    {
        [
            (\.serverNames, { _ in true }, ""),
            (\.applicationProtocols, { $0.has(\.model.tls.applicationProtocols) }, "alpn in the service"),
            (\.identities, { $0.has(\.presharedKeys) }, "[service.NAME.psk]"),
            (
                \.certificateNames, { $0.has(\.authorities) || $0.has(\.clients) || $0.has(\.clientCertificate) },
                "ca in the service"
            ),
            (\.publicKeys, { $0.has(\.publicKeys) }, "client_public_keys in the service"),
            (\.labels, { $0.has(\.authorize) }, "authorize in the service"),
        ]
    }

    private var conditions: [ForwardCondition] {
        var found: [ForwardCondition] = []
        if !serverNames.isEmpty { found.append(.serverName(serverNames)) }
        if !applicationProtocols.isEmpty { found.append(.applicationProtocol(applicationProtocols)) }
        if !identities.isEmpty { found.append(.identity(identities)) }
        if !certificateNames.isEmpty { found.append(.certificateName(certificateNames.map(\.value))) }
        if !publicKeys.isEmpty { found.append(.publicKey(publicKeys)) }
        if !labels.isEmpty { found.append(.label(labels)) }
        return found
    }

    /// A rule that was read.
    struct Read {
        /// `nil` where it has errors, which were reported.
        let rule: ForwardRule?
        let backends: [Element<Backend>]
        let table: TableReader<ForwardRuleSection>

        var hasBackend: Bool { table.has(\.backends) }

        /// Warns of conditions that hold of no client of the service.
        func warn(of service: TableReader<ServiceSection>) {
            for (property, hasEffect, need) in ForwardRuleSection.conditions
            where table.has(property) && !hasEffect(service) {
                table.warn(property, "no client of the service has one, so that the rule is for none; expected \(need)")
            }
        }
    }

    /// Reads the rules of a service, in the order of the file.
    static func read(_ tables: [NamedTable<Self>]) -> [Read] {
        var lines: [Int: String] = [:]
        var marks: [UInt16: String] = [:]
        return tables.map { named in
            let context = named.table.context
            ReadContext.check(name: named.name, at: named.table.path, of: "rule", context)
            if let line = context.line(of: named.table.path) {
                if let other = lines.updateValue(named.name, forKey: line) {
                    context.report(
                        named.table.path,
                        "it stands in the same line as \(other), and the order of rules counts; expected a table for each,"
                            + " [service.NAME.forward.rule.\(named.name)]")
                }
            }
            if let other = marks.updateValue(named.name, forKey: ForwardRule.mark(named.name)) {
                context.report(
                    named.table.path,
                    "this name cannot be told from \(other) where connections are kept; expected another one")
            }
            var section = Self()
            schema.read(named.table, into: &section)
            let rule = NonEmpty(section.conditions).map {
                ForwardRule(
                    name: named.name, conditions: $0,
                    backends: section.refuses ? nil : NonEmpty(section.backends.map(\.value)))
            }
            return Read(rule: rule, backends: section.backends, table: named.table)
        }
    }
}

extension ValueType where Value == [BytePattern] {
    /// One pattern, or an array of several.
    /// - Parameter what: what they are compared with.
    fileprivate static func patterns(_ what: String) -> Self {
        Self("\(what), a pattern of it with * for any characters, or an array of such texts") { read($0) { _ in true } }
    }

    /// Patterns of host names, which are compared in lower case.
    fileprivate static var serverNamePatterns: Self {
        Self("a host name in ASCII, a pattern of it with * for any characters, or an array of such texts") { field in
            read(field) { text in
                text.utf8.allSatisfy { $0.isLetterOrDigit || [0x2a, 0x2d, 0x2e, 0x5f].contains($0) }
            }?.map(\.lowercased)
        }
    }

    private static func read(_ field: Field, _ isPossible: (String) -> Bool) -> [BytePattern]? {
        field.strings.compactMap { text in
            guard !text.value.isEmpty, isPossible(text.value) else {
                field.reportMismatch(element: text.number, found: text.value)
                return nil
            }
            do throws(BytePattern.Mistake) {
                return try BytePattern(text.value)
            } catch {
                field.report(
                    element: text.number,
                    "\(ReadContext.quoted(text.value)): \(error.description); expected \(field.expected)")
                return nil
            }
        }
    }
}
