import DTLSEngine
import DTLSTransport
import Primitives

/// Makes the connection IDs (RFC 9146) of services, and reads them: each names this machine and a connection, encrypted
/// with a key that machines can share (``ConnectionIDCipher``).
///
/// What stands in a connection ID is the number that the connection had when it began. It says where to look, and
/// proves nothing: anybody may have seen it, and some made-up bytes name a connection too.
final class ConnectionIDAuthority {
    private let cipher: ConnectionIDCipher
    private let serverID: [UInt8]

    /// The key that the daemon generates has the last number, which a key file should leave free as long as there are
    /// connections with connection IDs that were made with it.
    static let numberOfOwnKey: UInt8 = 6

    /// - Parameter ownKey: a key that makes connection IDs where `configuration` has no key. It reads those that it has
    ///   made before, unless a key of `configuration` has its number.
    /// - Returns: `nil` where OpenSSL has no memory.
    init?(_ configuration: ConnectionIDConfiguration, ownKey: [UInt8]) {
        var keys = configuration.keys.map { (configuration: $0.rotation, key: $0.bytes) }
        if !keys.contains(where: { $0.configuration == Self.numberOfOwnKey }) {
            keys.append((Self.numberOfOwnKey, ownKey))
        }
        guard let cipher = ConnectionIDCipher(keys: keys, serverIDLength: configuration.serverID.count) else {
            return nil
        }
        self.cipher = cipher
        serverID = configuration.serverID
    }

    /// Makes the connection ID of a new connection.
    /// - Parameter length: from ``ConnectionIDConfiguration/minimumLength(serverIDLength:)`` to
    ///   ``ConnectionIDConfiguration/maximumLength``.
    /// - Returns: `nil` for another length, and where OpenSSL fails.
    func makeConnectionID(for number: ConnectionNumber, length: Int) -> ConnectionID? {
        let minimum = ConnectionIDConfiguration.minimumLength(serverIDLength: serverID.count)
        guard (minimum...ConnectionIDConfiguration.maximumLength).contains(length) else { return nil }
        var nonce = withUnsafeBytes(of: number.rawValue.bigEndian) { [UInt8]($0) }
        // Where numbers begin again, after a start without what the last process has left, connection IDs differ all the
        // same.
        for _ in 0..<(length - minimum) { nonce.append(UInt8.random(in: .min ... .max)) }
        return cipher.encrypt(serverID: serverID, nonce: nonce)
    }

    /// What a connection ID says.
    enum Reading: Equatable {
        /// The number that its connection began with, if it is one of this daemon's at all.
        case connection(ConnectionNumber)
        /// It is of another machine, or nobody has made it.
        case ofAnotherMachine
        /// None of the keys has made it.
        case unknownKey
    }

    func read(_ id: ConnectionID) -> Reading {
        guard let (isOfServer, number) = cipher.decryptNumber(id, of: serverID) else { return .unknownKey }
        return isOfServer ? .connection(ConnectionNumber(rawValue: number)) : .ofAnotherMachine
    }
}
