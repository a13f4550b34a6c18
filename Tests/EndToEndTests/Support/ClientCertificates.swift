import Foundation
import TestSupport

/// Certificates for clients, made with the openssl program: with names, in chains, revoked.
extension CertificateMaker {
    /// A CA that signs itself.
    func authority(_ name: String) async throws -> Identity {
        let identity = Identity(certificate: folder.file("\(name).pem"), privateKey: folder.file("\(name).key"))
        try await Program.run(
            ["openssl", "req", "-x509", "-noenc", "-days", "60"] + KeyKind.ecdsa.arguments
                + ["-keyout", identity.privateKey, "-out", identity.certificate, "-subj", "/CN=\(name)"],
            in: folder)
        return identity
    }

    /// A certificate that `authority` has signed.
    /// - Parameters:
    ///   - extensions: lines of an extension file (x509v3_config(5)).
    ///   - isExpired: whether its time is over.
    func issued(
        _ name: String, by authority: Identity, extensions: [String], isExpired: Bool = false
    ) async throws -> Identity {
        let identity = Identity(certificate: folder.file("\(name).pem"), privateKey: folder.file("\(name).key"))
        let request = folder.file("\(name).request")
        let file = try folder.write(extensions.joined(separator: "\n"), to: "\(name).extensions")
        try await Program.run(
            ["openssl", "req", "-new", "-noenc"] + KeyKind.ecdsa.arguments
                + ["-keyout", identity.privateKey, "-out", request, "-subj", "/CN=\(name)"],
            in: folder)
        try await folder.signCertificate(
            name, request: request, authority: (authority.certificate, authority.privateKey), extensions: file,
            isExpired: isExpired, to: identity.certificate)
        return identity
    }

    /// `authority`'s list of revoked certificates, as a PEM text.
    /// - Parameter outdated: whether it should have been replaced long ago.
    func revocationList(
        of authority: Identity, revoking revoked: [Identity] = [], outdated: Bool = false
    ) async throws -> String {
        let name = UUID().uuidString
        try folder.write("", to: "\(name).database")
        let configuration = try folder.write(
            "[ca]\ndefault_ca = a\n[a]\ndatabase = \(folder.file("\(name).database"))\n", to: "\(name).conf")
        let ca =
            ["openssl", "ca", "-config", configuration, "-md", "sha256"]
            + ["-cert", authority.certificate, "-keyfile", authority.privateKey]
        for identity in revoked { try await Program.run(ca + ["-revoke", identity.certificate], in: folder) }
        let dates =
            outdated
            ? ["-crl_lastupdate", "20200101000000Z", "-crl_nextupdate", "20200102000000Z"] : ["-crldays", "30"]
        return try await Program.run(ca + ["-gencrl"] + dates, in: folder)
    }

    /// SHA-256 of the certificate, as openssl prints it, with colons.
    func fingerprint(of identity: Identity) async throws -> String {
        let line = try await Program.run(
            ["openssl", "x509", "-noout", "-fingerprint", "-sha256", "-in", identity.certificate], in: folder)
        return line.trimmingCharacters(in: .whitespacesAndNewlines).components(separatedBy: "=").last ?? ""
    }
}
