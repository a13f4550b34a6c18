import DTLSKit

/// What is wrong with a server's certificate, in the eyes of its client.
enum Fault: CaseIterable, Sendable {
    case wrongName
    case expired
    case untrusted

    /// What OpenSSL calls it.
    var reasons: [String] {
        switch self {
        case .wrongName: ["ostname mismatch"]
        case .expired: ["certificate has expired"]
        // s_server sends its CA along, gnutls-serv does not.
        case .untrusted: ["self-signed certificate in certificate chain", "unable to get local issuer"]
        }
    }
}

extension TestAuthority {
    /// A server's certificate with this fault; for the other faults it is the client that expects something else.
    func issue(_ fault: Fault) async throws -> TestIdentity {
        try await issue("server", isExpired: fault == .expired)
    }
}

extension DtlsClientOption {
    /// How a handshake with these options fails; `nil`: it does not.
    func failure(port: Int) async throws -> DtlsError? {
        try await onThread {
            do throws(DtlsError) {
                let client = try Dtls.createClient(self, Dtls.sockaddr("127.0.0.1", port))
                client.close()
                return nil
            } catch {
                return error
            }
        }
    }
}
