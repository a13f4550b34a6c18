import DTLSEngine
import DTLSTransport
import LinuxSystem

/// A profile of SRTP that both sides can agree on while they do their DTLS handshake (use_srtp, RFC 5764). (Not in the
/// reference, like all of this file.)
///
/// The library agrees on the profile and gives the keys. Packets of SRTP are the program's, on sockets of its own.
public enum DtlsSrtpProfile: UInt16, Sendable, CaseIterable {
    /// RFC 5764: AES-128 in counter mode, with HMAC-SHA1 of 80 bits.
    case aes128CmSha1With80 = 0x0001
    /// RFC 5764: with HMAC-SHA1 of 32 bits for SRTP.
    case aes128CmSha1With32 = 0x0002
    /// RFC 7714.
    case aes128Gcm = 0x0007
    /// RFC 7714.
    case aes256Gcm = 0x0008

    /// OpenSSL's name.
    var name: String {
        switch self {
        case .aes128CmSha1With80: "SRTP_AES128_CM_SHA1_80"
        case .aes128CmSha1With32: "SRTP_AES128_CM_SHA1_32"
        case .aes128Gcm: "SRTP_AEAD_AES_128_GCM"
        case .aes256Gcm: "SRTP_AEAD_AES_256_GCM"
        }
    }

    /// Bytes of a master key.
    public var keyLength: Int { self == .aes256Gcm ? 32 : 16 }

    /// Bytes of a master salt.
    public var saltLength: Int {
        switch self {
        case .aes128CmSha1With80, .aes128CmSha1With32: 14
        case .aes128Gcm, .aes256Gcm: 12
        }
    }

    static func check(_ profiles: [DtlsSrtpProfile]) throws(DtlsError) {
        guard Set(profiles).count == profiles.count else { throw .invalid("srtpProfiles has a profile twice") }
    }
}

/// The master keys and salts of SRTP that a handshake has agreed on (RFC 5764, section 4.2). They are secrets.
public struct DtlsSrtpKeys: Sendable, Equatable {
    /// The profile that was agreed on; it says how long keys and salts are.
    public let profile: DtlsSrtpProfile
    /// For what this side sends.
    public let localKey: [UInt8]
    /// The master salt that goes with ``localKey``.
    public let localSalt: [UInt8]
    /// For what the peer sends.
    public let remoteKey: [UInt8]
    /// The master salt that goes with ``remoteKey``.
    public let remoteSalt: [UInt8]

    /// - Parameter material: the keys of client and server, and their salts.
    init(_ profile: DtlsSrtpProfile, _ material: [UInt8], isClient: Bool) {
        self.profile = profile
        let (key, salt) = (profile.keyLength, profile.saltLength)
        let keys = (Array(material[..<key]), Array(material[key..<(2 * key)]))
        let salts = (Array(material[(2 * key)..<(2 * key + salt)]), Array(material[(2 * key + salt)...]))
        (localKey, remoteKey) = isClient ? keys : (keys.1, keys.0)
        (localSalt, remoteSalt) = isClient ? salts : (salts.1, salts.0)
    }
}

/// Where the secrets of connections are written to, so that captured traffic can be decrypted: Wireshark's SSLKEYLOGFILE
/// format.
///
/// **Those who have these lines read all that the connections say.** It is for debugging alone, and there is none unless the
/// program sets one (``DtlsServerOption/keyLog``, ``DtlsClientOption/keyLog``).
public final class DtlsKeyLog: Sendable, Equatable {
    let write: @Sendable (String) -> Void

    /// - Parameter write: is given one line at a time, without a newline at its end, in the midst of a handshake and on that
    ///   connection's thread: it must not call this library, and should not take long.
    public init(_ write: @escaping @Sendable (String) -> Void) { self.write = write }

    /// Whether they are the same object.
    public static func == (one: DtlsKeyLog, other: DtlsKeyLog) -> Bool { one === other }

    package var engineLog: KeyLog {
        KeyLog { [write] line in write(String(decoding: line.dropLast(), as: UTF8.self)) }
    }
}

/// Keys for other protocols, which both sides derive from the handshake.
extension DtlsConnection {
    /// Keying material that only this connection's two sides can have (RFC 5705), where the options say that it can be had
    /// (``DtlsServerOption/exportsKeys``, ``DtlsClientOption/exportsKeys``). Both sides get the same bytes for the same
    /// arguments.
    /// - Parameters:
    ///   - label: tells uses apart: printable ASCII, as registered with IANA or beginning with `EXPERIMENTAL`; not one of
    ///     those that the protocol itself uses.
    ///   - context: what both sides know of the use; `nil` is another context than an empty one. With the label, 512 bytes at
    ///     most.
    ///   - length: 1 to 4,096 bytes.
    /// - Throws: `.notOpen` before the handshake is done and once the connection is closed; `.invalid` for an argument, and
    ///   where the options do not have the secret kept, or the connection was suspended, or sent to a task: the secret does
    ///   not go along.
    public func exportKeyingMaterial(label: String, context: [UInt8]? = nil, length: Int) throws(DtlsError) -> [UInt8] {
        checkThread()
        guard case .established = phase else { throw fault }
        guard let exporter else {
            throw .invalid(
                "the connection has no secret to derive keys from: set exportsKeys in its options, and note that the secret"
                    + " does not go along where a connection is suspended or sent to a task")
        }
        do throws(ExporterSecret.Fault) {
            return try exporter.keyingMaterial(label: label, context: context, length: length)
        } catch {
            switch error {
            case .label:
                throw .invalid(
                    "the label \"\(label)\" cannot be used: it must be printable ASCII, and none of those that TLS itself"
                        + " derives keys by")
            case .seed(let count):
                throw .invalid(
                    "label and context have \(count) bytes together; they may have \(ExporterSecret.maximumSeed)")
            case .length:
                throw .invalid(
                    "length \(length) is out of range: it must be \(ExporterSecret.lengths.lowerBound) to"
                        + " \(ExporterSecret.lengths.upperBound) bytes")
            case .failed: throw .invalid("OpenSSL does not derive the keys")
            }
        }
    }

    /// The SRTP profile that was agreed on, and its keys; `nil` where none was, before the handshake is done, once the
    /// connection is closed, and after it was suspended or sent to a task.
    public var srtpKeys: DtlsSrtpKeys? {
        checkThread()
        guard case .established(let connection) = phase,
            let profile = connection.session.srtpProfile.flatMap({ DtlsSrtpProfile(rawValue: $0) }),
            let material = try? exporter?.keyingMaterial(
                label: "EXTRACTOR-dtls_srtp", context: nil, length: 2 * (profile.keyLength + profile.saltLength))
        else { return nil }
        return DtlsSrtpKeys(profile, material, isClient: isClient)
    }
}
