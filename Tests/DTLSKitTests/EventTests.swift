import DTLSKit
import Glibc
import LinuxSystem
import TestSupport
import Testing

/// The program's events on descriptors: its own, and those of servers and connections.
@Suite(.serialized) struct EventTests {
    @Test func `an event on a named server's connection begins its handshake`() async throws {
        let authority = try await TestAuthority()
        let identity = try await authority.issue("server")
        // It adds a READ event in the callback of accept, and reads nothing before that fires.
        let server = try await EchoServer(
            DtlsServerOption(name: "in place", cert: identity.certificate, key: identity.key))
        try await onThread {
            let client = try Dtls.createClient(DtlsClientOption(), server.address, timeout: 20_000)
            try client.send("hello")
            var buffer = [UInt8](repeating: 0, count: 10)
            #expect(try client.recv(&buffer, timeout: 20_000) == 5)
            client.close()
        }
        try await server.stop()
    }

    @Test(arguments: ["pending", "write"]) func `other uses of a named server's connection begin its handshake too`(
        _ use: String
    ) async throws {
        let authority = try await TestAuthority()
        let identity = try await authority.issue("server")
        try await onThread {
            let server = try Dtls.createServer(
                DtlsServerOption(name: "in place", cert: identity.certificate, key: identity.key),
                Dtls.sockaddr("127.0.0.1", 0))
            var outcome: Result<DtlsConnection, DtlsError>?
            try Dtls.createClient(DtlsClientOption(), server.sockName(), timeout: 20_000) { result, _ in
                outcome = result
            }
            let served = try server.accept(timeout: 20_000)
            #expect(!served.isEstablished)
            if use == "pending" {
                #expect(served.pending() == 0)
            } else {
                try iosched.add(iosched.event(.write, served.sockFd) { false })
            }
            while outcome == nil { try iosched.poll(timeout: 20_000) }
            let client = try #require(try outcome?.get())
            while !served.isEstablished { try iosched.poll(timeout: 20_000) }
            client.close()
            served.close()
            server.close()
        }
    }

    @Test func `a connection has room to write, before its peer closes it and not after`() async throws {
        let authority = try await TestAuthority()
        let identity = try await authority.issue("server")
        try await onThread {
            let server = try Dtls.createServer(
                DtlsServerOption(cert: identity.certificate, key: identity.key), Dtls.sockaddr("127.0.0.1", 0))
            var outcome: Result<DtlsConnection, DtlsError>?
            try Dtls.createClient(DtlsClientOption(), server.sockName(), timeout: 20_000) { result, _ in
                outcome = result
            }
            let served = try server.accept(timeout: 20_000)
            while outcome == nil { try iosched.poll(timeout: 20_000) }
            let client = try #require(try outcome?.get())
            let descriptor = client.sockFd
            var calls = ["first": 0, "second": 0, "read": 0]
            for name in ["first", "second"] {
                try iosched.add(
                    iosched.event(.write, descriptor) {
                        calls[name, default: 0] += 1
                        return name == "second" && client.sockFd >= 0
                    })
            }
            try iosched.add(
                iosched.event(.read, descriptor) {
                    calls["read", default: 0] += 1
                    return false
                })
            while calls["second", default: 0] < 3 { try iosched.poll(timeout: 20_000) }
            #expect(calls["first"] == 1 && calls["read"] == 0)
            served.close()
            while calls["read"] == 0 { try iosched.poll(timeout: 20_000) }
            // The second descriptor that was watched is closed with the connection's own: the port is free.
            let own = try client.sockName()
            #expect(client.sockFd == -1)
            let address = try #require(SocketAddress(host: own.addr, port: UInt16(own.port)))
            // A program that another test is starting may hold a copy until its exec.
            var tries = 0
            while (try? DatagramSocket(at: address)) == nil, tries < 2_000 {
                tries += 1
                usleep(10_000)
            }
            #expect(tries < 2_000, "\(address) is still in use")
            #expect(throws: DtlsError.closed) { try client.send("x") }
            client.close()
            // There is room for clients, too.
            var isWritable = false
            try iosched.add(
                iosched.event(.write, server.sockFd) {
                    isWritable = true
                    return false
                })
            while !isWritable { try iosched.poll(timeout: 20_000) }
            server.close()
        }
    }

    @Test func `several events may watch one descriptor`() async throws {
        try await onThread {
            let iosched = try iosched
            var ends: [Int32] = [-1, -1]
            #expect(socketpair(AF_UNIX, Int32(SOCK_STREAM.rawValue), 0, &ends) == 0)
            var calls: [String] = []
            let reading = ["one", "two"].map { name in
                iosched.event(.read, ends[0]) {
                    calls.append(name)
                    return name == "two"
                }
            }
            let writing = iosched.event(.write, ends[0]) {
                calls.append("write")
                return false
            }
            for event in reading + [writing] { try iosched.add(event) }
            while calls.isEmpty { try iosched.poll(timeout: 20_000) }
            #expect(calls == ["write"], "there is nothing to read")
            var byte: UInt8 = 1
            #expect(write(ends[1], &byte, 1) == 1)
            while calls.count < 5 { try iosched.poll(timeout: 20_000) }
            // Only "two" wants to be called again, and nobody has read.
            #expect(
                calls.prefix(3).sorted() == ["one", "two", "write"] && calls.dropFirst(3).allSatisfy { $0 == "two" })
            iosched.remove(reading[1])
            let count = calls.count
            try iosched.poll(timeout: 20)
            #expect(calls.count == count)

            // One that was removed leaves the other.
            let again = ["three", "four"].map { name in
                iosched.event(.read, ends[0]) {
                    calls.append(name)
                    return true
                }
            }
            for event in again { try iosched.add(event) }
            iosched.remove(again[0])
            while calls.last != "four" { try iosched.poll(timeout: 20_000) }
            #expect(!calls.contains("three"))
            iosched.remove(again[1])
            close(ends[0])
            close(ends[1])

            // The number of a descriptor that was closed may be another file's.
            var others: [Int32] = [-1, -1]
            #expect(pipe(&others) == 0)
            let former = iosched.event(.read, others[0]) { true }
            try iosched.add(former)
            var replacement: [Int32] = [-1, -1]
            #expect(pipe(&replacement) == 0)
            #expect(dup2(replacement[0], others[0]) == others[0])
            #expect(write(replacement[1], &byte, 1) == 1)
            var isCalled = false
            try iosched.add(
                iosched.event(.read, others[0]) {
                    isCalled = true
                    return false
                })
            while !isCalled { try iosched.poll(timeout: 20_000) }
            iosched.remove(former)
            for descriptor in others + replacement { close(descriptor) }
        }
    }
}
