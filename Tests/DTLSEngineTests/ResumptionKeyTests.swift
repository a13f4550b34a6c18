import COpenSSL
import Primitives
import TestSupport
import Testing

@testable import DTLSEngine

/// How the keys of sessions are made, and how a process without ticket keys uses them.
@Suite struct ResumptionKeyTests {
    let certificates: TestCertificates

    init() throws { certificates = try TestCertificates.make() }

    private func ticketKey(_ byte: UInt8) throws -> TicketKey {
        try #require(TicketKey([UInt8](repeating: byte, count: TicketKey.length)))
    }

    /// Computed by the `cryptography` package of Python from what docs/decisions/0030-resumption-keys.md says.
    @Test func `a session's key is what the derivation says`() throws {
        let ring = TicketKeyRing([try #require(TicketKey(Array(0..<80)))])
        let name = [0xfd, 0x1f, 0xf2, 0x49] + (100..<112).map { UInt8($0) }
        let derived = ring.withKey(named: name) { key, renews in
            #expect(key.name.elementsEqual(name) && !renews)
            return Hexadecimal.text(key.derived)
        }
        #expect(
            derived
                == "d11b2ac0b8acd0f19199fe78fd824234ad9a78d6944ee5213e3f3909028fae1e"
                + "5dc05ecbc991b00a95104f31f46d910ecdebeb5a070223a90539f181626761e7")
    }

    @Test func `each session has a key of its own, which all rings with the ticket key find`() throws {
        let (old, new) = (try ticketKey(1), try ticketKey(2))
        let (here, there) = (TicketKeyRing([old]), TicketKeyRing([new, old]))
        var names: Set<[UInt8]> = []
        for _ in 0..<100 {
            let (name, derived) = try #require(here.withNewKey { (Array($0.name), Array($0.derived)) })
            names.insert(name)
            for (ring, isOld) in [(here, false), (there, true)] {
                let found = ring.withKey(named: name) { key, renews in
                    #expect(renews == isOld)
                    return Array(key.derived)
                }
                #expect(found == derived)
            }
        }
        #expect(names.count == 100)
        let name = try #require(there.withNewKey { Array($0.name) })
        #expect(here.withKey(named: name) { _, _ in true } == nil, "its ticket key is not here")
        #expect(there.withKey(named: Array(name.dropLast())) { _, _ in true } == nil, "it is too short")
        #expect(TicketKeyRing().withNewKey { _ in true } == nil)
    }

    /// All bytes of a file count, and not those alone that other programs have as its name.
    @Test(arguments: [0, 15, 16, 47, 48, 79]) func `each byte of a ticket key changes what is derived`(_ index: Int)
        throws
    {
        var bytes = Array(UInt8(0)..<80)
        let first = TicketKeyRing([try #require(TicketKey(bytes))])
        bytes[index] ^= 0x80
        let second = TicketKeyRing([try #require(TicketKey(bytes))])
        let name = try #require(first.withNewKey { Array($0.name) })
        #expect(second.withKey(named: name) { _, _ in true } == nil)
    }

    private func pair(_ ring: TicketKeyRing, _ session: ResumableSession? = nil) throws -> EnginePair {
        let pair = try EnginePair(
            client: ClientSettings(certificateAuthorities: certificates.authority),
            server: ServerSettings(
                certificate: certificates.ecdsaServer.certificate, privateKey: certificates.ecdsaServer.privateKey),
            keySource: ring, session: session)
        pair.handshake()
        try #require(pair.client.isEstablished && pair.server.isEstablished)
        return pair
    }

    /// The first 16 bytes of the client's ticket.
    private func ticketName(_ pair: EnginePair) throws -> [UInt8] {
        let session = try #require(pair.client.session)
        var ticket: UnsafePointer<UInt8>?
        var count = 0
        SSL_SESSION_get0_ticket(session.pointer, &ticket, &count)
        return Array(UnsafeBufferPointer(start: ticket, count: count).prefix(16))
    }

    @Test func `a server that has no ticket keys resumes with those that it is given`() throws {
        let ring = TicketKeyRing([try ticketKey(1)])
        let first = try pair(ring)
        let next = try pair(ring, first.client.session)
        #expect(first.server.engine?.isResumed == false && next.server.engine?.isResumed == true)
        #expect(try ticketName(next) == ticketName(first), "the ticket is still good")
        ring.keys = [try ticketKey(2), try ticketKey(1)]
        let renewed = try pair(ring, next.client.session)
        #expect(renewed.server.engine?.isResumed == true)
        #expect(try ticketName(renewed) != ticketName(first))
        ring.keys = [try ticketKey(2)]
        #expect(try pair(ring, renewed.client.session).server.engine?.isResumed == true)
        #expect(try pair(ring, first.client.session).server.engine?.isResumed == false)
    }

    @Test func `without keys there is a full handshake, and no ticket`() throws {
        let ring = TicketKeyRing([try ticketKey(1)])
        let session = try pair(ring).client.session
        let next = try pair(TicketKeyRing(), session)
        #expect(next.server.engine?.isResumed == false)
        #expect(try next.client.session == nil || ticketName(next).isEmpty)
    }

    @Test func `keys of any other length are none`() {
        for count in [0, ResumptionKeys.byteCount - 1, ResumptionKeys.byteCount + 1] {
            #expect([UInt8](repeating: 0, count: count).withUnsafeBytes { ResumptionKeys($0) } == nil)
        }
    }
}

extension TicketKeyRing {
    fileprivate func withKey<Result>(named name: [UInt8], _ body: (SessionKey, Bool) -> Result) -> Result? {
        name.withUnsafeBytes { withKey(named: $0, body) }
    }
}
