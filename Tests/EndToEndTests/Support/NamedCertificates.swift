import TestSupport

extension CertificateMaker {
    /// A certificate that is its own authority, for these names alone (`DNS:b.example.org`, `IP:127.0.0.1`).
    func selfSigned(_ file: String, kind: KeyKind = .ecdsa, names: [String]) async throws -> Identity {
        let identity = Identity(certificate: folder.file("\(file).pem"), privateKey: folder.file("\(file).key"))
        try await Program.run(
            ["openssl", "req", "-x509", "-noenc", "-days", "60"] + kind.arguments
                + ["-keyout", identity.privateKey, "-out", identity.certificate, "-subj", "/CN=\(file)"]
                + ["-addext", "subjectAltName=\(names.joined(separator: ","))"],
            in: folder)
        return identity
    }

    /// What an authority says of a certificate.
    enum Standing: String {
        case good = "V\t400101000000Z\t"
        case revoked = "R\t400101000000Z\t260101000000Z"
    }

    /// An OCSP response of the certificate's authority, in a file.
    func response(
        _ file: String, about identity: Identity, by authority: Identity, _ standing: Standing = .good
    ) async throws -> String {
        let (serial, request, index) = (
            folder.file("\(file).serial"), folder.file("\(file).request"), folder.file("\(file).index")
        )
        try await Program.run(
            ["openssl", "x509", "-in", identity.certificate, "-noout", "-serial", "-out", serial], in: folder)
        let number = folder.read("\(file).serial").dropFirst("serial=".count).filter(\.isHexDigit)
        try folder.write("\(standing.rawValue)\t\(number)\tunknown\t/CN=whatever\n", to: "\(file).index")
        try await Program.run(
            ["openssl", "ocsp", "-issuer", authority.certificate, "-cert", identity.certificate, "-reqout", request],
            in: folder)
        try await Program.run(
            ["openssl", "ocsp", "-index", index, "-CA", authority.certificate, "-rsigner", authority.certificate]
                + ["-rkey", authority.privateKey, "-reqin", request, "-ndays", "7", "-respout", folder.file(file)],
            in: folder)
        return folder.file(file)
    }
}

extension Service {
    /// Text of a `[service.NAME.name."HOST"]` table.
    func name(_ host: String, _ identity: Identity, more: String = "") -> String {
        """

        [service.\(name).name."\(host)"]
        certificate = "\(identity.certificate)"
        private_key = "\(identity.privateKey)"
        \(more)

        """
    }
}
