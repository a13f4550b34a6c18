import Foundation

@testable import DTLSDaemon

/// A folder of its own for one test, with a certificate `server.pem` and its key `server.key` in it; gone afterwards.
final class ConfigurationFolder {
    let path: String

    init() throws {
        path = try makeTemporaryFolder()
        try write("server.pem", TestMaterial.shared.get().certificate)
        try write("server.key", TestMaterial.shared.get().privateKey)
    }

    deinit { try? FileManager.default.removeItem(atPath: path) }

    func write(_ name: String, _ text: String, mode: Int = 0o600) throws {
        try write(name, Data(text.utf8), mode: mode)
    }

    func write(_ name: String, _ data: Data, mode: Int = 0o600) throws {
        let file = URL(fileURLWithPath: "\(path)/\(name)")
        try FileManager.default.createDirectory(
            at: file.deletingLastPathComponent(), withIntermediateDirectories: true)
        try data.write(to: file)
        try FileManager.default.setAttributes([.posixPermissions: mode], ofItemAtPath: file.path)
    }

    /// Writes the text as the folder's dtlsd.toml, and reads that.
    func read(_ text: String, environment: [String: String] = [:]) throws -> Configuration {
        try write("dtlsd.toml", text)
        return try ConfigurationReader.read(file: "\(path)/dtlsd.toml", environment: environment)
    }

    /// What is wrong with the text, the folder's path left out of the messages.
    func problems(_ text: String, environment: [String: String] = [:]) throws -> [String] {
        do {
            _ = try read(text, environment: environment)
            return []
        } catch let error as ConfigurationProblems {
            return error.problems.map { $0.description.replacingOccurrences(of: path + "/", with: "") }
        }
    }
}

/// Certificates and keys, made once for all tests of the process.
struct TestMaterial {
    static let shared = Result { try TestMaterial() }

    let certificate: String
    let privateKey: String
    /// `privateKey`, encrypted with the passphrase "sesame".
    let encryptedKey: String
    /// `privateKey`, encrypted with a byte order mark and "sesame", as OpenSSL reads a file with both.
    let keyEncryptedWithMark: String
    /// A key that belongs to no certificate.
    let otherKey: String
    /// An empty list of what the certificate's key has revoked.
    let revocationList: String
    /// One with an RSA key, and that key.
    let rsaCertificate: String
    let rsaKey: String
    /// RSA, 1024 bits.
    let weakCertificate: String
    let weakKey: String
    /// Of a kind that OpenSSL has no suites of DTLS for.
    let ed25519Certificate: String
    let ed25519Key: String
    /// On a curve that next to no client knows.
    let oddCertificate: String
    let oddKey: String
    /// CN=expired, with the key of `certificate`.
    let expiredCertificate: String
    /// The certificate, not as PEM.
    let derCertificate: Data
    /// CN=localhost, with the key of `certificate`, signed by an authority.
    let issuedCertificate: String
    /// OCSP responses that say that the issued certificate is good, and that it is revoked.
    let goodResponse: Data
    let revokedResponse: Data
    /// One that says that `certificate`, which is its own authority, is good.
    let selfSignedResponse: Data

    private init() throws {
        let folder = try makeTemporaryFolder()
        defer { try? FileManager.default.removeItem(atPath: folder) }
        func openssl(_ arguments: String) throws {
            let process = Process()
            process.executableURL = URL(fileURLWithPath: "/usr/bin/env")
            process.arguments = ["openssl"] + arguments.split(separator: " ").map(String.init)
            process.currentDirectoryURL = URL(fileURLWithPath: folder)
            process.standardError = FileHandle.nullDevice
            try process.run()
            process.waitUntilExit()
            guard process.terminationStatus == 0 else { throw OpenSSLFailed(arguments: arguments) }
        }
        func text(_ name: String) throws -> String { try String(contentsOfFile: "\(folder)/\(name)", encoding: .utf8) }
        let newKey = "genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out"
        try openssl("\(newKey) key")
        try openssl("\(newKey) other")
        try openssl(
            "req -x509 -new -key key -subj /CN=localhost -days 30 -out certificate"
                + " -addext subjectAltName=DNS:localhost,DNS:*.example.org")
        try openssl("genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048 -out rsakey")
        try openssl("req -x509 -new -key rsakey -subj /CN=localhost -days 30 -out rsa")
        try openssl("genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:1024 -out weakkey")
        try openssl("req -x509 -new -key weakkey -subj /CN=localhost -days 30 -out weak")
        try openssl("genpkey -algorithm ED25519 -out edkey")
        try openssl("req -x509 -new -key edkey -subj /CN=localhost -days 30 -out ed")
        try openssl("genpkey -algorithm EC -pkeyopt ec_paramgen_curve:brainpoolP256r1 -out oddkey")
        try openssl("req -x509 -new -key oddkey -subj /CN=localhost -days 30 -out odd")
        try openssl("req -new -key key -subj /CN=expired -out request.csr")
        try openssl("pkcs8 -topk8 -in key -passout pass:sesame -out encrypted")
        try openssl("pkcs8 -topk8 -in key -passout pass:\u{FEFF}sesame -out marked")
        try openssl("x509 -in certificate -outform DER -out der")
        // `openssl ca` needs a database, and a section that names it.
        let authority =
            "[ca]\ndefault_ca = a\n[a]\ndatabase = database\nnew_certs_dir = .\nserial = number\npolicy = p\n"
            + "[p]\ncommonName = supplied\n"
        for (name, contents) in [("database", ""), ("ca.conf", authority)] {
            try Data(contents.utf8).write(to: URL(fileURLWithPath: "\(folder)/\(name)"))
        }
        // `openssl x509` takes no dates before version 3.4, and no days below 0 from then on.
        try openssl(
            "ca -batch -config ca.conf -selfsign -in request.csr -keyfile key -md sha256 -create_serial -notext"
                + " -startdate 20240101000000Z -enddate 20240131000000Z -out expired")
        try openssl(
            "ca -gencrl -config ca.conf -keyfile key -cert certificate -md sha256 -crldays 30 -out list")
        revocationList = try text("list")
        certificate = try text("certificate")
        privateKey = try text("key")
        encryptedKey = try text("encrypted")
        keyEncryptedWithMark = try text("marked")
        otherKey = try text("other")
        rsaCertificate = try text("rsa")
        rsaKey = try text("rsakey")
        weakCertificate = try text("weak")
        weakKey = try text("weakkey")
        ed25519Certificate = try text("ed")
        ed25519Key = try text("edkey")
        oddCertificate = try text("odd")
        oddKey = try text("oddkey")
        expiredCertificate = try text("expired")
        derCertificate = try Data(contentsOf: URL(fileURLWithPath: "\(folder)/der"))
        try openssl("req -x509 -new -key other -subj /CN=authority -days 30 -out authority")
        try openssl(
            "req -new -key key -subj /CN=localhost -addext subjectAltName=DNS:localhost,DNS:*.example.org"
                + " -out issued.csr")
        try openssl(
            "x509 -req -in issued.csr -CA authority -CAkey other -CAcreateserial -copy_extensions copy -days 30"
                + " -out issued")
        issuedCertificate = try text("issued")
        func response(
            about certificate: String, by issuer: String, key: String, _ entry: String
        ) throws -> Data {
            try openssl("x509 -in \(certificate) -noout -serial -out serial")
            let serial = try text("serial").dropFirst("serial=".count).filter { $0.isHexDigit }
            try Data("\(entry)\t\(serial)\tunknown\t/CN=localhost\n".utf8).write(
                to: URL(fileURLWithPath: "\(folder)/index"))
            try openssl("ocsp -issuer \(issuer) -cert \(certificate) -reqout request")
            try openssl(
                "ocsp -index index -CA \(issuer) -rsigner \(issuer) -rkey \(key) -reqin request -ndays 7 -respout out")
            return try Data(contentsOf: URL(fileURLWithPath: "\(folder)/out"))
        }
        let (good, revoked) = ("V\t400101000000Z\t", "R\t400101000000Z\t260101000000Z")
        goodResponse = try response(about: "issued", by: "authority", key: "other", good)
        revokedResponse = try response(about: "issued", by: "authority", key: "other", revoked)
        selfSignedResponse = try response(about: "certificate", by: "certificate", key: "key", good)
    }

    struct OpenSSLFailed: Error {
        var arguments: String
    }
}

func makeTemporaryFolder() throws -> String {
    let folder = FileManager.default.temporaryDirectory.appendingPathComponent(
        "dtlsd-configuration-\(UUID().uuidString)")
    try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
    return folder.path
}
