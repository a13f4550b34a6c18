import Foundation
import LinuxSystem
import TestSupport
import Testing

extension EndToEnd {
    /// A configuration that the loader takes and the workers do not. OpenSSL reads its own configuration once in a
    /// process, so workers that were started before it changed ask for more than a loader that comes later.
    @Suite struct RejectionTests {
        let folder: TestFolder
        let certificates: CertificateMaker
        let address: SocketAddress
        let environment: [String: String]

        init() async throws {
            folder = try TestFolder()
            certificates = CertificateMaker(folder: folder)
            address = try SocketAddress.freeOnOwnLoopback()
            environment = ["OPENSSL_CONF": folder.file("openssl.cnf")]
        }

        /// From level 3 on, RSA keys have 3,072 bits at least; P-256 will do (SSL_CTX_set_security_level(3)).
        private func setSecurityLevel(_ level: Int) throws {
            try folder.write(
                """
                openssl_conf = all
                [all]
                ssl_conf = tls
                [tls]
                system_default = default
                [default]
                CipherString = DEFAULT@SECLEVEL=\(level)

                """, to: "openssl.cnf")
        }

        private func configuration(_ identity: Identity, at address: SocketAddress, workers: Int = 2) -> String {
            "workers = \(workers)\n" + Service(listen: [address], identity: identity).text
        }

        @Test func `a reload that workers reject changes nothing`() async throws {
            let good = try await certificates.selfSigned("good")
            let short = try await certificates.selfSigned("short", kind: .rsa)
            try setSecurityLevel(3)
            let daemon = try await Daemon.start(
                configuration(good, at: address), in: folder, environment: environment)
            let workers = daemon.workers
            let clients = try (0..<4).map { _ in try SecureClient(to: address, trust: good.certificate, in: folder) }
            for client in clients { try await client.exchange("before") }

            try setSecurityLevel(1)
            // With another address, too: it is left again.
            let moved = try SocketAddress.freeOnOwnLoopback()
            for round in 1...2 {
                try daemon.reload(configuration(short, at: moved))
                let failure = try await daemon.logged(" error ", "reload failed: worker ", count: round)
                #expect(failure.last?.contains("key too small") == true, "\(failure)")
                for client in clients { try await client.exchange("after reload \(round)") }
                let newcomer = try SecureClient(to: address, trust: good.certificate, in: folder)
                try await newcomer.exchange("I am new")
                try await newcomer.leave()
            }
            #expect((try? DatagramSocket(at: moved)) != nil, "nobody listens there")
            #expect(!daemon.logs("reloaded"))

            try daemon.reload(configuration(good, at: moved))
            try await daemon.logged("reloaded")
            let newcomer = try SecureClient(to: moved, trust: good.certificate, in: folder)
            try await newcomer.exchange("at the new place")
            for client in clients { try await client.exchange("and still here") }
            #expect(daemon.workers == workers)
            try await daemon.stop()
        }

        /// Nothing was ever in force, so there is nothing to go back to.
        @Test func `a start with a configuration that workers reject ends`() async throws {
            let short = try await certificates.selfSigned("short", kind: .rsa)
            let file = try folder.write(configuration(short, at: address), to: "dtlsd.toml")
            try setSecurityLevel(1)
            let program = try await startedAndHeld(file)
            try setSecurityLevel(3)
            program.signal(SIGCONT)
            #expect(try await program.ended() == .exited(78))
            #expect(program.errors.contains(/worker \d cannot use the configuration: .*key too small/))
        }

        /// A daemon that is stopped after its loader has read the configuration, and before there are workers.
        private func startedAndHeld(_ file: String) async throws -> Program {
            try await eventualValue("the daemon is caught in time") {
                let program = try Program(
                    ["env"] + environment.map { "\($0.key)=\($0.value)" } + [Daemon.binary, "--config", file],
                    in: folder)
                while ProcessTable.children(of: program.pid).isEmpty, program.ending == nil {}
                program.signal(SIGSTOP)
                while !ProcessTable.isStopped(program.pid), program.ending == nil {}
                let children = ProcessTable.children(of: program.pid)
                guard children.allSatisfy({ ProcessTable.name(of: $0).hasPrefix("dtlsd: loader") }) else { return nil }
                while children.contains(where: { ProcessTable.isRunning($0) }) {}
                return program
            }
        }

        /// A worker that takes up nothing for now does not keep SIGHUP from being heard.
        @Test func `a reload that hangs is replaced by the next one`() async throws {
            let good = try await certificates.selfSigned("good")
            let daemon = try await Daemon.start(configuration(good, at: address, workers: 1), in: folder)
            let worker = try #require(daemon.workers.first)
            kill(worker, SIGSTOP)
            defer { kill(worker, SIGCONT) }
            let moved = [try SocketAddress.freeOnOwnLoopback(), try SocketAddress.freeOnOwnLoopback()]
            for place in moved {
                try daemon.reload(configuration(good, at: place, workers: 1))
                // The main process answers there, and the worker knows nothing of it.
                let stranger = try DatagramSocket(at: .free(on: place.host))
                guard case .helloVerifyRequest = try await stranger.ask(ClientHelloBytes().bytes(), of: place) else {
                    Issue.record("no cookie at \(place)")
                    return
                }
            }
            #expect(!daemon.logs("reloaded"))
            kill(worker, SIGCONT)
            try await daemon.logged("reloaded")
            try await SecureClient(to: moved[1], trust: good.certificate, in: folder).exchange("hello")
            try await daemon.stop()
        }
    }
}
