import DTLSEngine
import TestSupport
import Testing

/// A client that resumes the sessions of earlier connections.
@Suite struct ClientSessionTests {
    let certificates: TestCertificates
    private let ticketKeys = [UInt8](repeating: 7, count: ServerContext.ticketKeyLength)

    init() throws { certificates = try TestCertificates.make() }

    private var client: ClientSettings { ClientSettings(certificateAuthorities: certificates.authority) }

    private var server: ServerSettings {
        ServerSettings(
            certificate: certificates.ecdsaServer.certificate, privateKey: certificates.ecdsaServer.privateKey)
    }

    /// An established pair.
    private func pair(
        _ session: ResumableSession? = nil, keys: [UInt8]? = nil, conditions: WireConditions = .perfect,
        seed: UInt64 = 1
    ) throws -> EnginePair {
        let pair = try EnginePair(
            client: client, server: server, conditions: conditions, seed: seed,
            ticketKeys: keys ?? ticketKeys, session: session)
        pair.handshake()
        try #require(pair.client.isEstablished && pair.server.isEstablished)
        return pair
    }

    private func session(of pair: EnginePair) throws -> ResumableSession {
        try #require(pair.client.session)
    }

    @Test func `a session is resumed again and again`() throws {
        let first = try pair()
        #expect(first.client.engine?.isResumed == false)
        var session = try session(of: first)
        for _ in 0..<3 {
            let next = try pair(session)
            #expect(next.client.engine?.isResumed == true && next.server.engine?.isResumed == true)
            try next.send([1, 2, 3], from: .client)
            next.run()
            #expect(next.server.messages == [[1, 2, 3]])
            session = try self.session(of: next)
        }
        // One that was used serves others too, although the connections that have used it just stop.
        #expect(try pair(session).client.engine?.isResumed == true)
        #expect(try pair(session).client.engine?.isResumed == true)
    }

    /// Neither a lost goodbye nor the end of the engine that it came from spoils it.
    @Test func `a session outlives a connection that stops without close_notify`() throws {
        func abandoned() throws -> ResumableSession { try session(of: pair()) }
        #expect(try pair(abandoned()).client.engine?.isResumed == true)
    }

    @Test func `a session that the server cannot open costs a full handshake`() throws {
        let session = try session(of: pair())
        let other = try pair(session, keys: [UInt8](repeating: 8, count: ServerContext.ticketKeyLength))
        #expect(other.client.engine?.isResumed == false && other.client.error == nil)
    }

    @Test func `there is no session before the handshake`() throws {
        let pair = try EnginePair(client: client, server: server)
        #expect(pair.client.session == nil)
    }

    @Test(arguments: 1...20 as ClosedRange<UInt64>)
    func `an abbreviated handshake survives loss`(_ seed: UInt64) throws {
        let session = try session(of: pair())
        let conditions = WireConditions(loss: 20, duplication: 20, reordering: 50)
        #expect(try pair(session, conditions: conditions, seed: seed).client.engine?.isResumed == true)
    }

    @Test func `the reason for a failed verification is told`() throws {
        let stranger = ClientSettings(certificateAuthorities: certificates.ecdsaServer.certificate)
        let pair = try EnginePair(client: stranger, server: server, serverName: "example.org")
        pair.handshake()
        let error = try #require(pair.client.error)
        #expect(error.verification?.isEmpty == false)
        #expect(try #require(pair.server.error).verification == nil)
    }
}
