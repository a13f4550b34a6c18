import DTLSEngine

// The values that are negotiated in a handshake: cipher suites and application protocols.

extension ValueType where Value == String {
    /// A cipher list. OpenSSL ignores unknown names in it, so a warning reports them.
    static var ciphers: Self {
        let list = string("an OpenSSL cipher list, as `openssl ciphers -v LIST` takes it")
        return Self(list.expected) { field in
            guard let list = list.read(field) else { return nil }
            let words = CipherPolicy.wordsWithoutSuite(in: list)
            if !words.isEmpty {
                let names = words.map(ReadContext.quoted).joined(separator: ", ")
                field.warn(
                    "no effect: \(names); OpenSSL knows no cipher suite of "
                        + (words.count == 1 ? "this name" : "these names"))
            }
            return list
        }
    }
}

extension ValueType where Value == String {
    /// A list of groups. OpenSSL refuses a list with an unknown name.
    static var groups: Self {
        let list = string("an OpenSSL list of groups (\"X25519:P-256\")")
        return Self(list.expected) { field in
            guard let list = list.read(field) else { return nil }
            if let fault = GroupList.fault(of: list) {
                field.report("\(fault); expected \(field.expected)")
                return nil
            }
            let unused = GroupList.unusedWords(in: list)
            if !unused.isEmpty {
                field.warn(
                    "no effect: \(unused.map(ReadContext.quoted).joined(separator: ", ")); DTLS 1.2 has no such groups")
            }
            return list
        }
    }

    /// A list of signature algorithms. OpenSSL refuses a list with an unknown name.
    static var signatureAlgorithms: Self {
        let list = string("an OpenSSL list of signature algorithms (\"ECDSA+SHA256:RSA-PSS+SHA256\")")
        return Self(list.expected) { field in
            guard let list = list.read(field) else { return nil }
            guard let fault = SignatureAlgorithms.fault(of: list) else { return list }
            field.report("\(fault); expected \(field.expected)")
            return nil
        }
    }
}

extension ValueType where Value == [String] {
    /// The names of application protocols in order of preference; empty if a ClientHello could not contain them.
    static var applicationProtocols: Self {
        Self("names of application protocols, each of 1 to 255 bytes (\"coap\")") { field in
            var list: [String] = []
            for name in field.strings {
                if list.contains(name.value) {
                    field.report(
                        element: name.number,
                        "\(ReadContext.quoted(name.value)) is listed twice; expected each protocol once")
                } else if (1...255).contains(name.value.utf8.count) {
                    list.append(name.value)
                } else {
                    field.reportMismatch(element: name.number, found: name.value)
                }
            }
            let length = ApplicationProtocols.encodedLength(of: list)
            guard length <= ApplicationProtocols.maximumLength else {
                field.report(
                    "\(length) bytes, including a length byte for each name; expected at most "
                        + "\(ApplicationProtocols.maximumLength), the most that fits into a ClientHello")
                return nil
            }
            return list
        }
    }
}
