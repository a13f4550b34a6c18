import DTLSKit
import Glibc
import TestSupport
import Testing

/// Addresses that stand for others, and those that two want.
@Suite(.serialized) struct AddressTests {
    @Test(arguments: [("0.0.0.0", "127.0.0.1"), ("::", "::1")])
    func `a client of the address that stands for all reaches this machine`(_ host: String, _ reached: String)
        async throws
    {
        let authority = try await TestAuthority()
        let identity = try await authority.issue("server")
        let server = try await EchoServer(
            DtlsServerOption(cert: identity.certificate, key: identity.key), on: host)
        #expect(server.address.addr == host)
        try await onThread {
            let client = try Dtls.createClient(DtlsClientOption(), server.address, timeout: 20_000)
            #expect(try client.peerName().addr == reached)
            #expect(client.remote.addr == reached)
            client.close()
        }
        try await server.stop()
    }

    @Test func `a second server on an address of this thread is refused`() async throws {
        let authority = try await TestAuthority()
        let identity = try await authority.issue("server")
        try await onThread {
            let option = DtlsServerOption(cert: identity.certificate, key: identity.key)
            func refuse(_ host: String, _ port: Int, line: Int = #line) throws {
                let address = try DtlsAddress(addr: host, port: port)
                #expect(
                    throws: DtlsError.system(call: "bind", subject: address.description, errno: EADDRINUSE),
                    "line \(line)"
                ) { _ = try Dtls.createServer(option, address) }
            }
            let port = Int(try ServerPorts.next())
            let first = try Dtls.createServer(option, Dtls.sockaddr("127.0.0.1", port))
            for host in ["127.0.0.1", "0.0.0.0", "::", "::ffff:127.0.0.1"] { try refuse(host, port) }
            // Others of this machine's addresses are free.
            let beside = try Dtls.createServer(option, Dtls.sockaddr("127.0.0.2", port))
            let six = try Dtls.createServer(option, Dtls.sockaddr6("::1", port))
            for server in [beside, six] { server.close() }

            // Connections that a server has left behind keep no new one of their thread away, but that one does.
            var outcome: Result<DtlsConnection, DtlsError>?
            try Dtls.createClient(DtlsClientOption(), first.sockName(), timeout: 20_000) { result, _ in
                outcome = result
            }
            let served = try first.accept(timeout: 20_000)
            while outcome == nil { try iosched.poll(timeout: 20_000) }
            try refuse("127.0.0.1", port)
            first.close()
            let second = try Dtls.createServer(option, Dtls.sockaddr("127.0.0.1", port))
            try refuse("127.0.0.1", port)
            try refuse("0.0.0.0", port)
            second.close()
            served.close()
        }
    }

    @Test func `a server of IPv6 alone leaves IPv4 to another, and cannot take it back`() async throws {
        let authority = try await TestAuthority()
        let identity = try await authority.issue("server")
        try await onThread {
            let option = DtlsServerOption(cert: identity.certificate, key: identity.key)
            let port = Int(try ServerPorts.next())
            let six = try Dtls.createServer(option, Dtls.sockaddr6("::", port))
            #expect(throws: DtlsError.self) { _ = try Dtls.createServer(option, Dtls.sockaddr("0.0.0.0", port)) }
            try six.setIPv6Only(true)
            let four = try Dtls.createServer(option, Dtls.sockaddr("0.0.0.0", port))
            #expect(throws: DtlsError.system(call: "bind", subject: "0.0.0.0:\(port)", errno: EADDRINUSE)) {
                try six.setIPv6Only(false)
            }
            four.close()
            try six.setIPv6Only(false)
            six.close()
        }
    }

    @Test func `a second asynchronous server on an address is refused`() async throws {
        let authority = try await TestAuthority()
        let identity = try await authority.issue("server")
        let option = DtlsServerOption(cert: identity.certificate, key: identity.key)
        let server = try await AsyncDtlsServer(option, on: Dtls.sockaddr("127.0.0.1", 0))
        let address = try await server.sockName()
        await #expect(throws: DtlsError.system(call: "bind", subject: address.description, errno: EADDRINUSE)) {
            _ = try await AsyncDtlsServer(option, on: address)
        }
        await server.close()
    }
}
