import Primitives
import TestSupport
import Testing

@testable import DTLSEngine

/// What an engine notes of what it has done, for those who count.
@Suite struct EngineNotesTests {
    private let certificates: TestCertificates

    init() throws { certificates = try TestCertificates.make() }

    private var server: ServerSettings {
        ServerSettings(
            certificate: certificates.ecdsaServer.certificate, privateKey: certificates.ecdsaServer.privateKey,
            certificateAuthorities: certificates.authority)
    }

    private func client(_ identity: TestCertificates.Identity?) -> ClientSettings {
        ClientSettings(
            certificateAuthorities: certificates.authority, certificate: identity?.certificate,
            privateKey: identity?.privateKey)
    }

    @Test func `a handshake without loss notes nothing, and its end a close_notify each way`() throws {
        let pair = try EnginePair(client: client(certificates.client), server: server)
        pair.handshake()
        pair.run()
        #expect(pair.client.isEstablished && pair.bio.notes.isEmpty)
        try pair.send([1], from: .client)
        pair.run()
        #expect(pair.bio.notes.isEmpty)
        pair.close(.client)
        pair.run()
        let notes = pair.bio.notes
        #expect(!notes.isEmpty && notes.sentAlerts.contains(0) && notes.receivedAlerts.contains(0))
        #expect(Set(notes.sentAlerts + notes.receivedAlerts) == [0] && notes.retransmittedFlights == 0)
        notes.removeAll()
        #expect(notes.isEmpty && notes.sentAlerts.isEmpty && notes.receivedAlerts.isEmpty)
    }

    @Test func `an alert is noted as it goes over the wire`() throws {
        // A certificate of another CA: OpenSSL's alert is corrected to what the RFC wants.
        let pair = try EnginePair(client: client(certificates.stranger), server: server)
        pair.handshake()
        let sent = try #require(pair.wire.sent.last { $0.side == .client }?.datagram)
        #expect(sent.count == 15 && sent[0] == 21 && sent[13] == 2, "a fatal alert in the clear")
        #expect(pair.bio.notes.sentAlerts == [sent[14]])
        #expect(pair.bio.notes.receivedAlerts == [sent[14]])
    }

    @Test func `flights that are sent again are noted`() throws {
        let pair = try EnginePair(
            client: client(certificates.client), server: server, conditions: WireConditions(loss: 100))
        pair.run { $0.wire.sentCount == 4 }
        #expect(pair.bio.notes.retransmittedFlights == 3)
        #expect(pair.bio.notes.sentAlerts.isEmpty)
    }
}
