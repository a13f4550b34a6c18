import TestSupport

/// A certificate and its private key, as PEM files.
struct Identity: Sendable {
    var certificate: String
    var privateKey: String
}

/// Makes certificates with the openssl program.
struct CertificateMaker {
    enum KeyKind: String, CaseIterable, Sendable {
        case ecdsa, rsa

        var arguments: [String] {
            switch self {
            case .ecdsa: ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
            case .rsa: ["-newkey", "rsa:2048"]
            }
        }
    }

    let folder: TestFolder

    /// A certificate that is its own authority, for localhost. `name` names the files and is the subject's unit.
    func selfSigned(_ name: String, kind: KeyKind = .ecdsa, days: Int = 60) async throws -> Identity {
        let identity = Identity(certificate: folder.file("\(name).pem"), privateKey: folder.file("\(name).key"))
        try await Program.run(
            ["openssl", "req", "-x509", "-noenc", "-days", "\(days)"] + kind.arguments
                + ["-keyout", identity.privateKey, "-out", identity.certificate, "-subj", "/OU=\(name)/CN=localhost"]
                + ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1,IP:::1"],
            in: folder)
        return identity
    }

    /// A certificate that `authority` has signed.
    /// - Parameter names: subject alternative names as OpenSSL writes them.
    func issued(
        _ name: String, by authority: Identity, kind: KeyKind = .ecdsa, names: String? = nil
    ) async throws -> Identity {
        let identity = Identity(certificate: folder.file("\(name).pem"), privateKey: folder.file("\(name).key"))
        let request = folder.file("\(name).request")
        try await Program.run(
            ["openssl", "req", "-new", "-noenc"] + kind.arguments
                + ["-keyout", identity.privateKey, "-out", request, "-subj", "/CN=\(name)"]
                + (names.map { ["-addext", "subjectAltName=\($0)"] } ?? []),
            in: folder)
        try await Program.run(
            ["openssl", "x509", "-req", "-in", request, "-days", "60", "-out", identity.certificate]
                + [
                    "-copy_extensions", "copy", "-CA", authority.certificate, "-CAkey", authority.privateKey,
                    "-CAcreateserial",
                ],
            in: folder)
        return identity
    }

    /// Writes the identity's private key once more, encrypted, to a file of its own.
    @discardableResult
    func encryptKey(of identity: Identity, as name: String, passphrase: String) async throws -> Identity {
        let file = folder.file(name)
        try await Program.run(
            ["openssl", "pkey", "-in", identity.privateKey, "-aes256", "-passout", "pass:\(passphrase)", "-out", file],
            in: folder)
        return Identity(certificate: identity.certificate, privateKey: file)
    }
}
