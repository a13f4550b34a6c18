/// The labels of what handshakes agree on and of alerts. Peers choose these, so the labels are bounded: what is not listed
/// counts as ``other``, which is the last one of each list.
enum HandshakeLabels {
    static let other = "other"

    /// OpenSSL's names of the suites of ``CipherPolicy``, and of what a cipher list adds most.
    static let ciphers = [
        "ECDHE-ECDSA-AES128-GCM-SHA256", "ECDHE-RSA-AES128-GCM-SHA256", "ECDHE-ECDSA-AES256-GCM-SHA384",
        "ECDHE-RSA-AES256-GCM-SHA384", "ECDHE-ECDSA-CHACHA20-POLY1305", "ECDHE-RSA-CHACHA20-POLY1305",
        "ECDHE-ECDSA-AES128-CCM", "ECDHE-ECDSA-AES128-CCM8", "ECDHE-ECDSA-AES256-CCM", "ECDHE-ECDSA-AES256-CCM8",
        "DHE-RSA-AES128-GCM-SHA256", "DHE-RSA-AES256-GCM-SHA384", "DHE-RSA-CHACHA20-POLY1305", "AES128-GCM-SHA256",
        "AES256-GCM-SHA384", "ECDHE-PSK-CHACHA20-POLY1305", "PSK-AES128-GCM-SHA256", "PSK-AES256-GCM-SHA384",
        "PSK-CHACHA20-POLY1305", "PSK-AES128-CCM", "PSK-AES256-CCM", "PSK-AES128-CCM8", "PSK-AES256-CCM8",
        "ECDHE-ECDSA-AES128-SHA256", "ECDHE-RSA-AES128-SHA256", "ECDHE-ECDSA-AES256-SHA384",
        "ECDHE-RSA-AES256-SHA384", "ECDHE-ECDSA-AES128-SHA", "ECDHE-RSA-AES128-SHA", "ECDHE-ECDSA-AES256-SHA",
        "ECDHE-RSA-AES256-SHA", "DHE-RSA-AES128-SHA256", "DHE-RSA-AES256-SHA256", "DHE-RSA-AES128-SHA",
        "DHE-RSA-AES256-SHA", "AES128-SHA256", "AES256-SHA256", "AES128-SHA", "AES256-SHA",
        "ECDHE-PSK-AES128-CBC-SHA256", "ECDHE-PSK-AES256-CBC-SHA384", "ECDHE-PSK-AES128-CBC-SHA",
        "ECDHE-PSK-AES256-CBC-SHA", "PSK-AES128-CBC-SHA256", "PSK-AES256-CBC-SHA384", "PSK-AES128-CBC-SHA",
        "PSK-AES256-CBC-SHA", other,
    ]

    /// The groups that contexts offer (``TLSContext``), by OpenSSL's names in lower case. "none" is an exchange of keys
    /// without a group: by RSA, by finite fields, or by a pre-shared key alone.
    static let groups = ["x25519", "secp256r1", "secp384r1", "secp521r1", "none", other]

    /// The names of RFC 5246, section 7.2, RFC 6066, section 9, RFC 4279, section 6, RFC 7301 and RFC 8446, with their
    /// numbers.
    private static let numberedAlerts: [(UInt8, String)] = [
        (0, "close_notify"), (10, "unexpected_message"), (20, "bad_record_mac"), (22, "record_overflow"),
        (40, "handshake_failure"), (42, "bad_certificate"), (43, "unsupported_certificate"),
        (44, "certificate_revoked"), (45, "certificate_expired"), (46, "certificate_unknown"),
        (47, "illegal_parameter"), (48, "unknown_ca"), (49, "access_denied"), (50, "decode_error"),
        (51, "decrypt_error"), (70, "protocol_version"), (71, "insufficient_security"), (80, "internal_error"),
        (90, "user_canceled"), (100, "no_renegotiation"), (109, "missing_extension"), (110, "unsupported_extension"),
        (112, "unrecognized_name"), (113, "bad_certificate_status_response"), (115, "unknown_psk_identity"),
        (116, "certificate_required"), (120, "no_application_protocol"),
    ]

    static let alerts = numberedAlerts.map(\.1) + [other]

    private static let cipherIndices = indices(of: ciphers)
    private static let groupIndices = indices(of: groups)
    private static let alertIndices = Dictionary(
        uniqueKeysWithValues: numberedAlerts.enumerated().map { ($1.0, $0) })

    private static func indices(of labels: [String]) -> [String: Int] {
        Dictionary(uniqueKeysWithValues: labels.enumerated().map { ($1, $0) })
    }

    /// The index of a suite's label.
    /// - Parameter name: OpenSSL's.
    static func cipher(_ name: String) -> Int { cipherIndices[name] ?? ciphers.count - 1 }

    /// - Parameter name: `nil`: the exchange of keys had no group.
    static func group(_ name: String?) -> Int { groupIndices[name?.lowercased() ?? "none"] ?? groups.count - 1 }

    /// - Parameter description: the second byte of an alert.
    static func alert(_ description: UInt8) -> Int { alertIndices[description] ?? alerts.count - 1 }
}
