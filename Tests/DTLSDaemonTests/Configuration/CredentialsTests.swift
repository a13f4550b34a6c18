import DTLSEngine
import Foundation
import LinuxSystem
import Primitives
import Testing

@testable import DTLSDaemon

/// How the certificates, keys, cipher suites and versions of a service have to fit together.
@Suite struct ConfigurationCredentialsTests {
    let folder: ConfigurationFolder
    let material: TestMaterial

    init() throws {
        folder = try ConfigurationFolder()
        material = try TestMaterial.shared.get()
        try folder.write("rsa.key", material.rsaKey)
    }

    /// A service of lines 1 to 4, and added lines from line 5 on.
    private func text(
        _ more: String = "", certificate: String = "\"server.pem\"", key: String = "\"server.key\""
    ) -> String {
        "[service.a]\ncertificate = \(certificate)\nprivate_key = \(key)\nhandler = \"echo\"\n\(more)\n"
    }

    @Test func `each certificate is noted with its owner, file, subject and end`() throws {
        let host = "[service.a.name.\"other.example\"]\ncertificate = \"server.pem\"\nprivate_key = \"server.key\"\n"
        let client =
            "[client.c]\nconnect = \"127.0.0.1:5684\"\nlisten = [\"127.0.0.1:5683\"]\nserver_name = \"localhost\"\n"
            + "ca = \"server.pem\"\ncertificate = \"server.pem\"\nprivate_key = \"server.key\"\n"
        let certificates = try folder.read(text("listen = [\"127.0.0.1:5685\"]\n\(host)\(client)")).credentials
        #expect(certificates.map(\.kind) == [.service, .service, .client])
        #expect(certificates.map(\.owner) == ["a", "a", "c"])
        #expect(certificates.map(\.host) == [nil, "other.example", nil])
        #expect(certificates.allSatisfy { $0.file == "server.pem" && $0.subject == "CN=localhost" })
        // Made a moment ago, for 30 days.
        #expect(certificates.allSatisfy { [29, 30].contains($0.daysLeft(at: .now())) })
    }

    @Test func `a way to look at revocation lists needs some`() throws {
        #expect(
            try folder.problems(text("ca = \"server.pem\"\ncrl_check = \"leaf\"")).map { $0.prefix { $0 != ";" } } == [
                "dtlsd.toml:6: service.a.crl_check: there is no list to check with"
            ])
    }

    /// A certificate that cannot be used does not hide other errors.
    @Test func `all errors in credentials are reported together`() throws {
        let more = """
            ca = "server.key"
            ciphers = "NOPE"
            minimum_version = "1.2"
            maximum_version = "1.0"
            psk.file = "none.psk"
            """
        #expect(
            try folder.problems(text(more, key: "\"rsa.key\"")).map { $0.prefix { $0 != ";" } } == [
                "dtlsd.toml:3: service.a.private_key: \"rsa.key\": the private key does not belong to the certificate",
                "dtlsd.toml:5: service.a.ca: \"server.key\": no PEM certificate in it",
                "dtlsd.toml:6: service.a.ciphers: no cipher matches \"NOPE\"",
                "dtlsd.toml:8: service.a.maximum_version: the minimum 1.2 is above the maximum 1.0",
                "dtlsd.toml:9: service.a.psk.file: cannot read \"none.psk\": No such file or directory",
            ])
        #expect(
            try folder.problems(
                "[service.a]\nhandler = \"echo\"\nciphers = \"ECDHE+AESGCM\"\npsk.file = \"none.psk\"\n"
            ).map { $0.prefix { $0 != ";" } } == [
                "dtlsd.toml:3: service.a.ciphers: it has no cipher suite for pre-shared keys (PSK-…)",
                "dtlsd.toml:4: service.a.psk.file: cannot read \"none.psk\": No such file or directory",
            ])
    }

    @Test func `a certificate that no handshake can use is refused`() throws {
        try folder.write("ed.pem", material.ed25519Certificate)
        try folder.write("ed.key", material.ed25519Key)
        let reason = "\"ed.pem\": OpenSSL has no cipher suites of DTLS for servers with ED25519 keys; expected "
        for more in ["", "ciphers = \"ALL\""] {
            let found = try folder.problems(text(more, certificate: "\"ed.pem\"", key: "\"ed.key\""))
            #expect(found.map { $0.hasPrefix("dtlsd.toml:2: service.a.certificate: \(reason)") } == [true], "\(found)")
        }
        #expect(
            try folder.problems(text("ciphers = \"ECDHE-RSA-AES128-GCM-SHA256\"")) == [
                "dtlsd.toml:5: service.a.ciphers: it has no cipher suite for certificates with ECDSA keys; expected an "
                    + "OpenSSL cipher list, as `openssl ciphers -v LIST` takes it"
            ])
    }

    /// OpenSSL ignores unknown names in a cipher list.
    @Test func `unknown cipher suites cause a warning`() throws {
        let list = "ECDHE+AESGCM:NOPE, !RC4:NIX:@SECLEVEL=1"
        let warnings = try folder.read(text("ciphers = \"\(list)\"")).warnings
        #expect(warnings.map(\.key) == ["service.a.ciphers"])
        #expect(
            warnings.map(\.message) == ["no effect: \"NOPE\", \"NIX\"; OpenSSL knows no cipher suite of these names"])
    }

    @Test func `a passphrase needs a key`() throws {
        try folder.write("keys.psk", "a:00112233445566778899aabbccddeeff\n")
        try folder.write("phrase", "sesame")
        #expect(
            try folder.problems(
                "[service.a]\nhandler = \"echo\"\npassphrase_file = \"phrase\"\npsk.file = \"keys.psk\"") == [
                    "dtlsd.toml:3: service.a.passphrase_file: there is no private key that it could be for; expected "
                        + "private_key beside it"
                ])
    }

    @Test func `a certificate whose key next to no client takes is accepted with a warning`() throws {
        try folder.write("odd.pem", material.oddCertificate)
        try folder.write("odd.key", material.oddKey)
        let text = "[service.a]\nhandler = \"echo\"\ncertificate = \"odd.pem\"\nprivate_key = \"odd.key\"\n"
        #expect(
            try folder.read(text).warnings.map(\.description).map {
                $0.replacingOccurrences(of: folder.path + "/", with: "")
            } == [
                "dtlsd.toml:3: service.a.certificate: \"odd.pem\": the certificate has a key on the curve "
                    + "brainpoolP256r1, which next to no client knows; P-256 is known to all; most clients cannot "
                    + "connect, or refuse it"
            ])
    }

    @Test func `an expired certificate is accepted with a warning`() throws {
        try folder.write("old.pem", material.expiredCertificate)
        let named = "[service.a.name.expired]\ncertificate = \"old.pem\"\nprivate_key = \"server.key\"\n"
        let warnings = try folder.read(text(certificate: "\"old.pem\"") + named).warnings
        #expect(warnings.map(\.key) == ["service.a.certificate", "service.a.name.expired.certificate"])
        for warning in warnings {
            #expect(warning.message.hasPrefix("\"old.pem\": the certificate of \"CN=expired\" expired on 2"))
            #expect(warning.message.hasSuffix("; clients that check it will refuse it"))
        }
    }
}
