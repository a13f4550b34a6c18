/// The table `[connection_ids]`: how the connection IDs (RFC 9146) of all services name this machine and a connection.
struct ConnectionIDConfiguration: Codable, Equatable, Sendable {
    /// The keys of `key_file`: the first one makes connection IDs, all of them read those that clients have. Empty: the
    /// daemon has a key of its own.
    var keys: [ConnectionIDKey] = []
    /// What tells this machine from others with the same keys: 1 to 10 bytes.
    var serverID: [UInt8] = [0]

    /// The rotation bits of keys: the last value is no key's (section 3.1 of the draft).
    static let rotations: ClosedRange<UInt8> = 0...6
    static let keyLength = 16
    static let serverIDLengths = 1...10

    /// The length of the longest connection ID that a service can be configured with.
    static let maximumLength = 20

    /// The length of the shortest connection ID that has room for what names a connection: a byte about the key, the
    /// server ID, and the connection's number.
    static func minimumLength(serverIDLength: Int) -> Int { 1 + serverIDLength + 8 }
}

/// A key that connection IDs are encrypted with, as draft-ietf-quic-load-balancers describes.
struct ConnectionIDKey: Codable, Equatable, Sendable {
    /// The config rotation bits of the connection IDs that are made with the key: 0 to 6.
    var rotation: UInt8
    /// 16 bytes, a key of AES-128.
    var bytes: [UInt8]
}
