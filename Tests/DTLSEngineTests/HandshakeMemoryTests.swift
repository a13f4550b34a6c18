import CLinux
import DTLSEngine
import TestSupport
import Testing

/// What a peer can make a server keep before its handshake is done. Each case is a process of its own, since what is
/// counted is the whole process' memory (none under AddressSanitizer, which has an allocator of its own).
@Suite struct HandshakeMemoryTests {
    /// Records of epoch 1, which OpenSSL keeps until there are keys for them.
    private static func early(_ number: Int) -> [UInt8] {
        [22, 0xfe, 0xfd, 0, 1, 0, 0, 0, 0, UInt8(number >> 8), UInt8(number & 255), 0x3f, 0x00]
            + [UInt8](repeating: 5, count: 0x3f00)
    }

    /// The first fragment of a message that is to come later, and says that it is long.
    private static func later(_ sequence: Int) -> [UInt8] {
        let header: [UInt8] = [16, 1, 0x86, 0xa0, 0, UInt8(sequence), 0, 0, 0, 0, 0, 64]
        return [22, 0xfe, 0xfd, 0, 0, 0, 0, 0, 0, 1, UInt8(sequence), 0, 76] + header + [UInt8](repeating: 1, count: 64)
    }

    private static func makePair() throws -> EnginePair {
        let certificates = try TestCertificates.make()
        return try EnginePair(
            client: ClientSettings(certificateAuthorities: certificates.authority),
            server: ServerSettings(
                certificate: certificates.rsaServer.certificate, privateKey: certificates.rsaServer.privateKey))
    }

    /// Floods a server while its client hears nothing.
    /// - Returns: by how many bytes the process has grown.
    private static func flood(_ pair: EnginePair, with datagrams: [[UInt8]]) -> Int {
        pair.run { $0.server.engine != nil }
        var isHeld = true
        pair.wire.interfere = { _, side, datagram in isHeld && side == .client ? [] : [.init(datagram)] }
        let before = cl_bytes_in_use()
        for datagram in datagrams { pair.inject(datagram, into: .server) }
        let growth = Int(cl_bytes_in_use()) - Int(before)
        isHeld = false
        return growth
    }

    @Test func `early records of a handshake take bounded memory`() async {
        await #expect(processExitsWith: .success) {
            let pair = try Self.makePair()
            #expect(Self.flood(pair, with: (1...200).map(Self.early)) < 400_000)
            pair.handshake()
            #expect(pair.client.isEstablished && pair.server.isEstablished)
        }
    }

    @Test func `handshake messages out of order take bounded memory`() async {
        await #expect(processExitsWith: .success) {
            let pair = try Self.makePair()
            #expect(Self.flood(pair, with: (3...12).map(Self.later)) < 400_000)
        }
    }
}
