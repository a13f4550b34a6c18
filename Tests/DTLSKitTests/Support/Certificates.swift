import DTLSKit
import TestSupport

/// Certificates for tests, made with the openssl program in a folder of their own.
struct TestIdentity: Sendable {
    /// Paths of PEM files.
    let certificateFile: String
    let keyFile: String
    /// PEM texts.
    let certificate: String
    let key: String
}

/// A CA of the tests' own, and what it has signed.
final class TestAuthority: Sendable {
    let folder: TestFolder
    /// The CA's certificate, PEM, and its file.
    let certificate: String
    let file: String

    enum Kind { case ecdsa, rsa }

    init() async throws {
        folder = try TestFolder()
        file = folder.file("ca.pem")
        // OpenSSL 4.0 takes another one of the same name for the issuer, whose signature is then wrong.
        let name = "Test CA \(folder.path.suffix(6))"
        try await Program.run(
            ["openssl", "req", "-x509", "-noenc", "-days", "30", "-newkey", "ec", "-pkeyopt"]
                + ["ec_paramgen_curve:prime256v1", "-keyout", folder.file("ca.key"), "-out", file]
                + ["-subj", "/CN=\(name)", "-addext", "keyUsage=critical,keyCertSign,cRLSign"],
            in: folder)
        certificate = try Dtls.readString(file)
    }

    /// A certificate signed by this CA.
    /// - Parameters:
    ///   - names: subject alternative names as OpenSSL writes them.
    ///   - isExpired: whether its time is over.
    func issue(
        _ name: String, names: String = "DNS:localhost,IP:127.0.0.1", kind: Kind = .ecdsa, isExpired: Bool = false
    ) async throws -> TestIdentity {
        let (key, request, certificate) = (
            folder.file("\(name).key"), folder.file("\(name).request"), folder.file("\(name).pem")
        )
        let algorithm =
            kind == .rsa ? ["-newkey", "rsa:2048"] : ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
        try await Program.run(
            ["openssl", "req", "-new", "-noenc"] + algorithm + ["-keyout", key, "-out", request]
                + ["-subj", "/CN=\(name)"], in: folder)
        let extensions = try folder.write("subjectAltName=\(names)\n", to: "\(name).extensions")
        try await folder.signCertificate(
            name, request: request, authority: (file, folder.file("ca.key")), extensions: extensions,
            isExpired: isExpired, to: certificate)
        return TestIdentity(
            certificateFile: certificate, keyFile: key, certificate: try Dtls.readString(certificate),
            key: try Dtls.readString(key))
    }

    /// The key of an identity, encrypted with a password.
    func encrypt(_ identity: TestIdentity, password: String) async throws -> String {
        try await Program.run(
            ["openssl", "pkey", "-in", identity.keyFile, "-aes256", "-passout", "pass:\(password)"], in: folder)
    }
}
