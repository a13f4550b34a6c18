import Foundation
import LinuxSystem
import TestSupport
import Testing

extension EndToEndHandshakes {
    @Suite struct CookieSecretTests {
        /// What `cookie_secret_file` is for: a client that got its cookie from one daemon goes on with another.
        @Test func `a cookie of one daemon is valid for the next one with the same secret`() async throws {
            let folder = try TestFolder()
            let identity = try await CertificateMaker(folder: folder).selfSigned("server")
            let address = try SocketAddress.freeOnOwnLoopback()
            try folder.write(UUID().uuidString + UUID().uuidString, to: "cookie.secret")
            let configuration =
                "cookie_secret_file = \"cookie.secret\"\n" + Service(listen: [address], identity: identity).text
            let client = try DatagramSocket.onOwnLoopback()
            let hello = ClientHelloBytes()

            let first = try await Daemon.start(configuration, in: folder)
            guard case .helloVerifyRequest(let cookie) = try await client.ask(hello.bytes(), of: address) else {
                Issue.record("no HelloVerifyRequest")
                return
            }
            try await first.stop()

            let nextFolder = try TestFolder()
            try folder.copy(["cookie.secret", "server.pem", "server.key"], to: nextFolder)
            let next = try await Daemon.start(configuration, in: nextFolder)
            let answer = try await client.ask(hello.bytes(cookie: cookie, number: 1), of: address)
            #expect(answer == .serverHello)
            try await next.stop()
        }

        /// A client is between its two hellos when `systemctl restart` comes, and another one is established. The secret of
        /// cookies that no file has is kept by systemd, as connections are.
        @Test func `a handshake goes on by its cookie over a restart`() async throws {
            let folder = try TestFolder()
            let identity = try await CertificateMaker(folder: folder).selfSigned("server")
            let address = try SocketAddress.freeOnOwnLoopback()
            let configuration = Service(listen: [address], identity: identity).text
            let store = try DescriptorStore(in: folder)
            let client = try DatagramSocket.onOwnLoopback()
            let hello = ClientHelloBytes()

            let first = try await Daemon.start(configuration, in: folder, environment: store.environment)
            let established = try SecureClient(to: address, trust: identity.certificate, in: folder)
            try await established.exchange("before")
            guard case .helloVerifyRequest(let cookie) = try await client.ask(hello.bytes(), of: address) else {
                Issue.record("no HelloVerifyRequest")
                return
            }
            try await eventually("all is stored") {
                store.names.isSuperset(of: ["dtlsd-cookie-secret", "dtlsd-ticket-keys", "dtlsd-connections-0"])
            }
            first.program.signal(SIGUSR1)
            #expect(try await first.program.ended() == .exited(0))

            let nextFolder = try TestFolder()
            let next = try await Daemon.start(
                configuration, in: nextFolder, environment: store.environment, prefix: store.prefix)
            client.send(hello.bytes(cookie: cookie, number: 1), to: address)
            let answer = try await eventualValue("the next main process takes the cookie") { client.receive() }
            #expect(HelloAnswer(answer.bytes) == .serverHello)
            try await established.exchange("after")
            #expect(next.logs("that an earlier process has left"))
            try await next.stop()
        }
    }
}

extension TestFolder {
    fileprivate func copy(_ names: [String], to other: TestFolder) throws {
        for name in names { try other.write(read(name), to: name) }
    }
}
