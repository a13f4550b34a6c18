import COpenSSL
import Glibc
import Primitives

/// An OCSP response about a certificate (RFC 6960), which the server sends along to clients that ask for it (RFC 6066,
/// section 8). Clients check its signature, since they know whom they trust.
public struct OCSPStaple: Codable, Equatable, Sendable {
    /// The OCSP response, DER.
    public let response: [UInt8]
    /// When it is out of date (nextUpdate), in seconds since 1970; `nil`: it does not say.
    public let expiry: UnixTime?
    /// Since when the responder has known it (thisUpdate), in seconds since 1970; `nil`: it cannot be read.
    public let start: UnixTime?

    /// A response that ``init(_:for:)`` has checked before.
    public init(checked response: [UInt8], expiry: UnixTime?, start: UnixTime? = nil) {
        self.response = response
        self.expiry = expiry
        self.start = start
    }

    /// Checks that a response is one that can be stapled to a certificate now.
    /// - Parameter response: DER, as `openssl ocsp -respout` writes it.
    public init(_ response: [UInt8], for certificate: OwnCertificate) throws(OCSPStapleError) {
        ERR_clear_error()
        defer { ERR_clear_error() }
        let basic = try Self.parse(response)
        defer { OCSP_BASICRESP_free(basic) }
        guard let single = Self.part(of: basic, about: certificate) else { throw .otherCertificate }
        guard !certificate.isSelfSigned else { throw .selfSigned }
        var thisUpdate: UnsafeRawPointer?
        var nextUpdate: UnsafeRawPointer?
        let status = co_ocsp_single_status(single, &thisUpdate, &nextUpdate)
        guard status == V_OCSP_CERTSTATUS_GOOD else {
            throw .notGood(OCSP_cert_status_str(Int(status)).map { String(cString: $0) } ?? "unknown")
        }
        self.init(
            checked: response, expiry: nextUpdate.flatMap(UnixTime.init(asn1:)),
            start: thisUpdate.flatMap(UnixTime.init(asn1:)))
        // The responder's clock may be wrong by five minutes; but no client accepts a response that has expired.
        guard co_ocsp_check_validity(thisUpdate, nextUpdate, 300) == 1,
            isValid(at: UnixTime(seconds: Int64(time(nil))))
        else {
            throw .outOfDate(nextUpdate.flatMap(Self.text) ?? "")
        }
    }

    /// Whether the response may still be sent.
    /// - Parameter time: seconds since 1970.
    public func isValid(at time: UnixTime) -> Bool { expiry.map { $0 > time } ?? true }

    private static func parse(_ response: [UInt8]) throws(OCSPStapleError) -> OpaquePointer {
        let parsed = response.withUnsafeBufferPointer { buffer in
            var position = buffer.baseAddress
            return d2i_OCSP_RESPONSE(nil, &position, buffer.count)
        }
        guard let parsed else { throw .malformed("\(OpenSSLError.drain())") }
        defer { OCSP_RESPONSE_free(parsed) }
        let status = OCSP_response_status(parsed)
        guard status == OCSP_RESPONSE_STATUS_SUCCESSFUL else {
            throw .unsuccessful(OCSP_response_status_str(Int(status)).map { String(cString: $0) } ?? "\(status)")
        }
        guard let basic = OCSP_response_get1_basic(parsed) else { throw .malformed("\(OpenSSLError.drain())") }
        return basic
    }

    /// The part of a response about a certificate, found by the name of its issuer and its serial number. (Clients
    /// compare the issuer's key: a server need not have the issuer's certificate.)
    private static func part(of basic: OpaquePointer, about certificate: OwnCertificate) -> OpaquePointer? {
        for index in 0..<OCSP_resp_count(basic) {
            guard let single = OCSP_resp_get0(basic, index) else { continue }
            var nameHash: UnsafeRawPointer?
            var serial: UnsafeRawPointer?
            var algorithm: OpaquePointer?
            let identifier = OCSP_SINGLERESP_get0_id(single)
            guard co_ocsp_id_info(identifier, &nameHash, &algorithm, &serial) == 1,
                co_asn1_integer_cmp(serial, co_x509_serial_number(certificate.pointer)) == 0,
                let digest = EVP_get_digestbyname(OBJ_nid2sn(OBJ_obj2nid(algorithm)))
            else { continue }
            var hash = [UInt8](repeating: 0, count: Int(EVP_MAX_MD_SIZE))
            var count: UInt32 = 0
            guard X509_NAME_digest(X509_get_issuer_name(certificate.pointer), digest, &hash, &count) == 1,
                let start = co_asn1_string_data(nameHash), co_asn1_string_length(nameHash) == Int32(count)
            else { continue }
            if UnsafeBufferPointer(start: start, count: Int(count)).elementsEqual(hash[..<Int(count)]) { return single }
        }
        return nil
    }

    /// `2026-11-23 18:00:00 UTC`
    private static func text(_ time: UnsafeRawPointer) -> String? {
        var parts = tm()
        guard co_asn1_time_to_tm(time, &parts) == 1 else { return nil }
        func two(_ number: Int32) -> String { number < 10 ? "0\(number)" : "\(number)" }
        return "\(Int(parts.tm_year) + 1900)-\(two(parts.tm_mon + 1))-\(two(parts.tm_mday))"
            + " \(two(parts.tm_hour)):\(two(parts.tm_min)):\(two(parts.tm_sec)) UTC"
    }
}

/// The reason why a response cannot be stapled to a certificate.
public enum OCSPStapleError: Error, Sendable, Equatable, CustomStringConvertible {
    case malformed(String)
    /// The responder has answered with an error.
    case unsuccessful(String)
    /// The response says nothing about the certificate.
    case otherCertificate
    /// The certificate has issued itself.
    case selfSigned
    /// The certificate is revoked, or unknown.
    case notGood(String)
    /// The response is not valid now. The text is its nextUpdate, or empty where it is not valid yet.
    case outOfDate(String)

    public var description: String {
        switch self {
        case .malformed(let reason): "not an OCSP response in DER (\(reason))"
        case .unsuccessful(let status): "the OCSP responder has answered with an error (\(status))"
        case .otherCertificate: "the OCSP response is about another certificate"
        case .selfSigned:
            "the certificate has signed itself, and no OCSP response is sent along with such a certificate"
        case .notGood(let status): "the OCSP response says that the certificate is \(status)"
        case .outOfDate(let end):
            end.isEmpty
                ? "the OCSP response is not valid yet" : "the OCSP response is not valid now; it is until \(end)"
        }
    }
}

extension ServerContext {
    /// Sends the staple of the certificate that was chosen to clients that ask for it (status_request).
    func stapleWhenAsked() {
        guard exData.certificates.contains(where: { $0.staple != nil }) else { return }
        _ = co_ssl_ctx_set_status_callback(pointer) { ssl, _ in
            guard let ssl else { return SSL_TLSEXT_ERR_NOACK }
            return ServerContext.staple(to: ssl)
        }
    }

    private static func staple(to ssl: OpaquePointer) -> Int32 {
        // A client that gets a raw public key has no certificate that the response could be about.
        guard co_ssl_get_server_cert_type(ssl) == Int32(RawPublicKeys.certificateType) else {
            return SSL_TLSEXT_ERR_NOACK
        }
        // OpenSSL has made the one that it will send the current one.
        guard let chosen = SSL_get_certificate(ssl), let certificates = ContextExData.of(ssl)?.certificates,
            let staple = certificates.first(where: { X509_cmp($0.certificate.pointer, chosen) == 0 })?.staple,
            staple.isValid(at: UnixTime(seconds: Int64(time(nil)))),
            let copy = co_memdup(staple.response, staple.response.count)
        else { return SSL_TLSEXT_ERR_NOACK }
        _ = co_ssl_set_status_response(ssl, copy, staple.response.count)
        return SSL_TLSEXT_ERR_OK
    }
}
