#if NIO
    import DTLSKit
    import Foundation
    import TestSupport

    /// A certificate for localhost and 127.0.0.1, which is its own CA, made once for all tests.
    struct Credentials: Sendable {
        let folder: TestFolder
        let certificateFile: String
        let keyFile: String
        let certificate: String
        let key: String

        private init() async throws {
            folder = try TestFolder()
            certificateFile = folder.file("cert.pem")
            keyFile = folder.file("cert.key")
            try await Program.run(
                ["openssl", "req", "-x509", "-noenc", "-days", "30", "-newkey", "ec", "-pkeyopt"]
                    + ["ec_paramgen_curve:prime256v1", "-keyout", keyFile, "-out", certificateFile]
                    + ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"], in: folder)
            certificate = folder.read("cert.pem")
            key = folder.read("cert.key")
        }

        private static let made = Task { try await Credentials() }

        static var shared: Credentials { get async throws { try await made.value } }

        var server: DtlsServerOption { DtlsServerOption(cert: certificate, key: key) }
        /// Trusts the server.
        var client: DtlsClientOption {
            DtlsClientOption(rejectUnauthorized: true, ca: certificate, server: "localhost")
        }
    }
#endif
