import DTLSTransport

@testable import DTLSDaemon
@testable import DTLSEngine

extension ConnectionSlot {
    /// What a worker writes when a handshake is done.
    /// - Parameter id: the connection ID that the client puts into its records.
    func establish(with id: ConnectionID?) {
        let prepared = prepare(
            random: UnsafeRawBufferPointer(start: nil, count: 0), details: [], handshakeDuration: .zero)
        let terms = RecordState.Terms(
            isServer: true, algorithm: .aes128GCM, suite: 0xc02f, contentLimit: 16_384, noncePrefix: 1,
            connectionIDs: id.map { ConnectionIDs(own: $0, peer: .empty) })
        [UInt8](repeating: 7, count: 32).withUnsafeBytes { bytes in
            let keys = RecordState.Keys(
                key: UnsafeRawBufferPointer(rebasing: bytes[..<16]),
                nonce: UnsafeRawBufferPointer(rebasing: bytes[16..<20]))
            RecordState.write(terms, send: keys, receive: keys, nextNumber: 1 << 48, to: prepared.records)
        }
        establish(prepared, isMovable: true)
    }
}

extension ConnectionIDAuthority {
    /// One with a key of its own.
    static func ofTests(_ serverID: [UInt8] = [0]) throws -> ConnectionIDAuthority {
        guard
            let authority = ConnectionIDAuthority(
                ConnectionIDConfiguration(serverID: serverID), ownKey: [UInt8](repeating: 3, count: 16))
        else { throw NoAuthority() }
        return authority
    }

    private struct NoAuthority: Error {}
}
