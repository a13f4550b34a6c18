import COpenSSL

/// The extensions connection_id (RFC 9146, section 3) and rrc (RFC 9853) of one connection's hellos. OpenSSL knows
/// neither, and calls back for both.
///
/// Every handshake agrees for itself, one that resumes a session too. Connection IDs are agreed on only for records that are
/// not to be OpenSSL's when the handshake is done: those of ``RecordAlgorithm``.
final class ConnectionIDNegotiation {
    /// The connection ID that this side offers or answers with.
    let own: ConnectionID
    /// What was agreed on, as soon as the ServerHello has been read or written.
    private(set) var agreed: ConnectionIDs?
    /// The client's connection ID, where this is the server.
    private var offered: ConnectionID?
    private var peerChecksReturnRoutability = false
    /// The extension's content: the length of ``own`` and its bytes.
    private let content: UnsafeMutableRawBufferPointer

    private init(_ own: ConnectionID) {
        self.own = own
        content = .allocate(byteCount: 1 + own.count, alignment: 1)
        content[0] = UInt8(truncatingIfNeeded: own.count)
        own.withUnsafeBytes { UnsafeMutableRawBufferPointer(rebasing: content[1...]).copyBytes(from: $0) }
    }

    deinit { content.deallocate() }

    var checksReturnRoutability: Bool { agreed != nil && peerChecksReturnRoutability }

    private static let slot = ExDataSlot<ConnectionIDNegotiation>(of: .connection)

    /// Has a connection offer, or answer with, a connection ID.
    /// - Returns: `nil` when OpenSSL has no memory.
    static func attach(_ own: ConnectionID, to ssl: OpaquePointer) -> ConnectionIDNegotiation? {
        let negotiation = ConnectionIDNegotiation(own)
        return slot.set(negotiation, in: ssl) ? negotiation : nil
    }

    // MARK: Extensions

    /// connection_id and rrc, by the numbers that IANA has given them.
    private static let connectionIDExtension: UInt32 = 54
    private static let returnRoutabilityExtension: UInt32 = 61

    private static let omitted: Int32 = 0
    private static let added: Int32 = 1
    private static let refused: Int32 = 0
    private static let taken: Int32 = 1

    /// Has all connections of a context that have a ``ConnectionIDNegotiation`` send and read the extensions.
    static func enable(in context: OpaquePointer) -> Bool {
        let messages = UInt32(SSL_EXT_CLIENT_HELLO | SSL_EXT_TLS1_2_SERVER_HELLO)
        return SSL_CTX_add_custom_ext(
            context, connectionIDExtension, messages,
            { ssl, _, message, content, count, _, _, _, _ in
                guard let ssl, let content, let count, let negotiation = ConnectionIDNegotiation.slot.value(in: ssl)
                else { return ConnectionIDNegotiation.omitted }
                return negotiation.addConnectionID(to: message, of: ssl, &content.pointee, &count.pointee)
            }, nil, nil,
            { ssl, _, message, content, count, _, _, alert, _ in
                // A client reads an answer to what it has offered only; a server has no negotiation where it has no
                // connection ID for the client.
                guard let ssl, let negotiation = ConnectionIDNegotiation.slot.value(in: ssl) else {
                    return ConnectionIDNegotiation.taken
                }
                let bytes = UnsafeRawBufferPointer(start: content, count: count)
                return negotiation.read(bytes, in: message, of: ssl, alert)
            }, nil) == 1
            && SSL_CTX_add_custom_ext(
                context, returnRoutabilityExtension, messages,
                { ssl, _, message, content, count, _, _, _, _ in
                    guard let ssl, let negotiation = ConnectionIDNegotiation.slot.value(in: ssl), let content, let count
                    else {
                        return ConnectionIDNegotiation.omitted
                    }
                    content.pointee = nil
                    count.pointee = 0
                    // It is of no use without the other one.
                    return message & UInt32(SSL_EXT_CLIENT_HELLO) != 0 || negotiation.agreed != nil
                        ? ConnectionIDNegotiation.added : ConnectionIDNegotiation.omitted
                }, nil, nil,
                { ssl, _, _, _, count, _, _, alert, _ in
                    guard let ssl, let negotiation = ConnectionIDNegotiation.slot.value(in: ssl) else {
                        return ConnectionIDNegotiation.taken
                    }
                    guard count == 0 else {
                        alert?.pointee = SSL_AD_DECODE_ERROR
                        return ConnectionIDNegotiation.refused
                    }
                    negotiation.peerChecksReturnRoutability = true
                    return ConnectionIDNegotiation.taken
                }, nil) == 1
    }

    private func addConnectionID(
        to message: UInt32, of ssl: OpaquePointer, _ bytes: inout UnsafePointer<UInt8>?, _ count: inout Int
    ) -> Int32 {
        if message & UInt32(SSL_EXT_CLIENT_HELLO) == 0 {
            guard let offered, RecordKeys.suite(of: ssl) != nil else { return Self.omitted }
            agreed = ConnectionIDs(own: own, peer: offered)
        }
        bytes = UnsafePointer(content.baseAddress?.assumingMemoryBound(to: UInt8.self))
        count = content.count
        return Self.added
    }

    private func read(
        _ content: UnsafeRawBufferPointer, in message: UInt32, of ssl: OpaquePointer,
        _ alert: UnsafeMutablePointer<Int32>?
    ) -> Int32 {
        guard let bytes = Self.connectionID(in: content) else {
            alert?.pointee = SSL_AD_DECODE_ERROR
            return Self.refused
        }
        let id = ConnectionID(bytes)
        if message & UInt32(SSL_EXT_CLIENT_HELLO) != 0 {
            // One that is too long is not answered.
            offered = id
            return Self.taken
        }
        guard let id else {
            alert?.pointee = SSL_AD_HANDSHAKE_FAILURE
            HandshakeRefusal.record(.longConnectionID(bytes.count), for: ssl)
            return Self.refused
        }
        guard RecordKeys.suite(of: ssl) != nil else {
            alert?.pointee = SSL_AD_HANDSHAKE_FAILURE
            let suite = SSL_get_pending_cipher(ssl).flatMap { SSL_CIPHER_get_name($0) }.map { String(cString: $0) }
            HandshakeRefusal.record(.connectionIDWithoutAEAD(suite: suite ?? "unknown"), for: ssl)
            return Self.refused
        }
        agreed = ConnectionIDs(own: own, peer: id)
        return Self.taken
    }

    /// The bytes of the connection ID in an extension's content: a length of one byte, and as many bytes; `nil` for
    /// anything else.
    static func connectionID(in content: UnsafeRawBufferPointer) -> UnsafeRawBufferPointer? {
        guard let count = content.first, content.count == Int(count) + 1 else { return nil }
        return UnsafeRawBufferPointer(rebasing: content[1...])
    }
}
