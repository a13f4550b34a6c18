import DTLSKit
import Foundation
import TestSupport
import Testing

/// Every program of the reference page, against openssl s_client and against our own client.
@Suite(.serialized) struct ExampleTests {
    /// An example that runs as a server in a folder with its certificate.
    private final class RunningExample: Sendable {
        let program: Program
        let port: Int
        let authority: TestAuthority

        init(_ name: String) async throws {
            authority = try await TestAuthority()
            let identity = try await authority.issue("server")
            try authority.folder.write(identity.certificate, to: "cert.pem")
            try authority.folder.write(identity.key, to: "cert.key")
            let program = try Program(
                ["env", "-C", authority.folder.path, "stdbuf", "-oL", Executables.path(name), "0"],
                in: authority.folder)
            self.program = program
            let line = try await eventualValue("\(name) listens", details: program.output + program.errors) {
                program.output.split(separator: "\n").first { $0.hasPrefix("Listening on:") }
            }
            port = try #require(Int(line.split(separator: ":").last ?? ""))
        }

        var lines: [String] { program.output.split(separator: "\n").map(String.init) }

        func printed(_ text: String, count: Int = 1) async throws {
            try await eventually("\"\(text)\" is printed", details: program.output + program.errors) {
                lines.count { $0.contains(text) } >= count
            }
        }
    }

    @Test(arguments: ["SynchronousServer", "AsynchronousServer", "MultitaskServer", "SwiftServer"])
    func `server serves open SSL and our client`(_ name: String) async throws {
        let example = try await RunningExample(name)
        let theirs = try Program(
            [
                "openssl", "s_client", "-dtls", "-nbio", "-connect", "127.0.0.1:\(example.port)", "-CAfile",
                example.authority.file,
            ]
                + ["-verify_return_error"], in: example.authority.folder)
        theirs.send("from s_client\n")
        try await example.printed("Say: from s_client")
        try await eventually("the echo comes back") { theirs.output.contains("from s_client") }
        theirs.send("Q\n")
        #expect(try await theirs.ended() == .exited(0))

        let option = DtlsClientOption(
            rejectUnauthorized: true, ca: example.authority.certificate, server: "localhost")
        try await onThread {
            let client = try Dtls.createClient(option, Dtls.sockaddr("127.0.0.1", example.port), timeout: 60_000)
            var buffer = [UInt8](repeating: 0, count: 100)
            for round in 1...3 {
                try client.send("round \(round)")
                #expect(try client.recv(&buffer, timeout: 60_000) == 7)
            }
            client.close()
        }
        try await example.printed("Say: round 3")

        try example.authority.folder.write(example.authority.certificate, to: "ca.pem")
        let client = try Program(
            ["env", "-C", example.authority.folder.path, Executables.path("Client"), "127.0.0.1", "\(example.port)"],
            in: example.authority.folder)
        #expect(try await client.ended() == .exited(0))
        #expect(client.output.contains("Connected: 127.0.0.1:\(example.port)"))
        try await example.printed("Say: Hello I am client ^_^")
        #expect(example.program.ending == nil)
    }

    /// libcoap's clients do what the first lines of the example say.
    @Test(arguments: ["coap-client-openssl", "coap-client-gnutls"])
    func `devices with keys post to the CoAP server, and get it back`(_ client: String) async throws {
        let example = try await RunningExample("CoapServer")
        func ask(_ arguments: String..., identity: String = "sensor-7", path: String = "echo") throws -> Program {
            try Program(
                [client, "-B", "30"] + arguments
                    + ["-u", identity, "-k", "correct-horse-16", "coaps://127.0.0.1:\(example.port)/\(path)"],
                in: example.authority.folder)
        }
        let posted = try ask("-m", "post", "-e", "21.5 degrees", path: "a/long-path-of-options?unit=celsius")
        #expect(try await posted.ended() == .exited(0))
        #expect(posted.output.contains("21.5 degrees"), "\(posted.output)\(posted.errors)")
        let asked = try ask("-m", "get", "-N")
        #expect(try await asked.ended() == .exited(0))
        #expect(asked.output.contains("Post something."), "\(asked.output)\(asked.errors)")
        let deleted = try ask("-m", "delete")
        _ = try await deleted.ended()
        #expect((deleted.output + deleted.errors).contains("4.05"), "\(deleted.output)\(deleted.errors)")
        let unknown = try ask("-m", "get", identity: "sensor-8")
        _ = try await unknown.ended()
        #expect(!unknown.output.contains("Post something."))

        // What is no CoAP message is dropped, and the server lives on.
        let option = DtlsClientOption(
            presharedKey: DtlsPresharedKey(identity: Array("sensor-7".utf8), key: Array("correct-horse-16".utf8)))
        try await onThread {
            let device = try Dtls.createClient(option, Dtls.sockaddr("127.0.0.1", example.port), timeout: 60_000)
            for wrong: [UInt8] in [
                [0x40], [0x80, 1, 0, 1], [0x49, 1, 0, 1], [0x48, 1, 0, 1, 2], [0x40, 1, 0, 1, 0xff],
                [0x40, 1, 0, 1, 0xd0], [0x40, 1, 0, 1, 0xe0, 1], [0x40, 1, 0, 1, 0x0f],
                [0x40, 1, 0, 1, 0x0e, 0xff, 0xff],
                [0x60, 0, 0, 1],
            ] { try device.send(wrong) }
            // A ping, which is answered with a reset (RFC 7252, section 4.3).
            try device.send([0x40, 0, 0x12, 0x34])
            var buffer = [UInt8](repeating: 0, count: 100)
            let count = try device.recv(&buffer, timeout: 60_000)
            #expect(Array(buffer[..<count]) == [0x70, 0, 0x12, 0x34])
            device.close()
        }
        #expect(example.program.ending == nil)
    }

    @Test func `the example client talks to OpenSSL`() async throws {
        let authority = try await TestAuthority()
        let identity = try await authority.issue("server")
        let server = try Program(
            ["openssl", "s_server", "-dtls", "-accept", "127.0.0.1:0", "-listen", "-cert", identity.certificateFile]
                + ["-key", identity.keyFile], in: authority.folder)
        // s_server prints "ACCEPT 127.0.0.1:PORT" for port 0.
        let port = try await eventualValue("s_server listens", details: server.output + server.errors) {
            server.output.split(separator: "\n").first { $0.hasPrefix("ACCEPT 127") }
                .flatMap { $0.split(separator: ":").last.flatMap { Int($0) } }
        }
        let client = try Program(
            ["env", "-C", authority.folder.path, Executables.path("Client"), "127.0.0.1", "\(port)"],
            in: authority.folder)
        #expect(try await client.ended() == .exited(0), "\(client.output)\(client.errors)")
        try await eventually("s_server prints both", details: server.output + server.errors) {
            server.output.contains("Hello I am client ^_^Goodbye!")
        }
    }

    /// Connections go to both tasks in turn, and a task that dies is started again.
    @Test func `tasks take turns and are replaced when they end`() async throws {
        let example = try await RunningExample("MultitaskServer")
        @Sendable func talk(_ text: String) async throws {
            try await onThread {
                let client = try Dtls.createClient(
                    DtlsClientOption(), Dtls.sockaddr("127.0.0.1", example.port), timeout: 60_000)
                try client.send(text)
                var buffer = [UInt8](repeating: 0, count: 100)
                #expect(try client.recv(&buffer, timeout: 60_000) == text.utf8.count)
                client.close()
            }
        }
        func tasks(saying text: String) -> [pid_t] {
            example.lines.filter { $0.hasPrefix("Task") && $0.contains("Say: \(text)") }
                .compactMap { $0.split(separator: " ").dropFirst().first.flatMap { pid_t($0) } }
        }
        for _ in 0..<4 { try await talk("first") }
        try await example.printed("Say: first", count: 4)
        let first = tasks(saying: "first")
        #expect(Set(first).count == 2 && first[0] == first[2] && first[1] == first[3])
        #expect(!first.contains(example.program.pid))

        kill(first[0], SIGKILL)
        try await example.printed("Task \(first[0]) was killed by signal 9")
        for _ in 0..<4 { try await talk("second") }
        try await example.printed("Say: second", count: 4)
        let second = Set(tasks(saying: "second"))
        #expect(second.count == 2 && second.contains(first[1]) && !second.contains(first[0]))

        // The program's end is the tasks' end.
        example.program.signal(SIGKILL)
        try await eventually("the tasks end") { !second.contains { ProcessTable.isRunning($0) } }
    }
}
