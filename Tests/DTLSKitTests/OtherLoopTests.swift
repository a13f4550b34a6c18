import DTLSKit
import Glibc
import Testing

/// The library, driven by poll(2) alone.
@Suite(.serialized) struct OtherLoopTests {
    @Test func `poll alone drives handshakes, messages, timers and retransmissions`() async throws {
        let authority = try await TestAuthority()
        let identity = try await authority.issue("server")
        try await onThread {
            let loop = try iosched
            func drive(until isDone: () -> Bool) throws {
                while !isDone() {
                    var descriptor = pollfd(fd: loop.pollDescriptor, events: Int16(POLLIN), revents: 0)
                    let left = loop.millisecondsToDeadline
                    let count = poll(&descriptor, 1, Int32(left ?? 20_000))
                    // Where there is no deadline, something has to come.
                    try #require(count > 0 || left != nil, "nothing has come, and no deadline is known")
                    try loop.processPending()
                }
            }
            let server = try Dtls.createServer(
                DtlsServerOption(cert: identity.certificate, key: identity.key), Dtls.sockaddr("127.0.0.1", 0))
            var served: DtlsConnection?
            var outcome: Result<DtlsConnection, DtlsError>?
            server.accept { client, _ in served = client }
            try Dtls.createClient(DtlsClientOption(), server.sockName()) { result, _ in outcome = result }
            let left = try #require(loop.millisecondsToDeadline)
            #expect((0...1_000).contains(left), "the first flight is sent again after a second")
            try drive { outcome != nil && served != nil }
            let client = try #require(try outcome?.get())
            var received = 0
            let connection = try #require(served)
            try loop.add(
                loop.event(.read, connection.sockFd) {
                    var buffer = [UInt8](repeating: 0, count: 100)
                    received += (try? connection.recv(&buffer, timeout: 0)) ?? 0
                    return true
                })
            try client.send("by poll alone")
            try drive { received == 13 }
            var isLate = false
            try loop.timer(after: 20) { isLate = true }
            try drive { isLate }
            // A second flight is sent to where nobody listens, by the deadline alone.
            var refusal: DtlsError?
            try Dtls.createClient(DtlsClientOption(), Dtls.sockaddr("127.9.9.5", 9)) { result, _ in
                if case .failure(let error) = result { refusal = error }
            }
            try drive { refusal != nil }
            #expect(refusal == .system(call: "connect", subject: "127.9.9.5:9", errno: ECONNREFUSED))
            connection.close()
            client.close()
            server.close()
        }
    }
}
