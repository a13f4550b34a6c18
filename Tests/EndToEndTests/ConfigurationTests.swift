import LinuxSystem
import TestSupport
import Testing

extension EndToEndHandshakes {
    /// What the daemon says of its configuration before it serves anybody.
    @Suite struct ConfigurationTests {
        let folder: TestFolder
        let identity: Identity
        let good: String

        init() async throws {
            folder = try TestFolder()
            identity = try await CertificateMaker(folder: folder).selfSigned("server")
            good = Service(listen: [try .freeOnOwnLoopback()], identity: identity).text
        }

        private func run(_ arguments: [String]) async throws -> (ending: Program.Ending, errors: String, output: String)
        {
            let program = try Program([Daemon.binary] + arguments, in: folder)
            return (try await program.ended(), program.errors, program.output)
        }

        private var manyErrors: String {
            """
            workers = -1
            colour = "blue"
            [service.first]
            listen = ["nowhere"]
            certificate = "\(folder.path)/missing.pem"
            private_key = "\(identity.privateKey)"
            handler = "sing"
            mtu = 10
            """
        }

        /// One start names everything that is wrong, with the file and the key.
        @Test(arguments: [[], ["--check"]])
        func `all errors are reported at once`(_ more: [String]) async throws {
            let file = try folder.write(manyErrors, to: "bad.toml")
            let (ending, errors, output) = try await run(more + ["--config", file])
            #expect(ending == .exited(78))
            for part in ["bad.toml", "workers", "colour", "nowhere", "missing.pem", "sing", "mtu"] {
                #expect((errors + output).contains(part), "\(part) is not named in: \(errors)")
            }
        }

        @Test func `--check of a valid file starts nothing`() async throws {
            let file = try folder.write(good, to: "good.toml")
            let (ending, errors, _) = try await run(["--check", "--config", file])
            #expect(ending == .exited(0), "\(errors)")
        }

        @Test func `a missing file is named`() async throws {
            let (ending, errors, output) = try await run(["--config", folder.file("none.toml")])
            #expect(ending == .exited(78))
            #expect((errors + output).contains("none.toml"))
        }

        @Test func `a syntax error is named with its line`() async throws {
            let file = try folder.write(good + "\nworkers = = 3\n", to: "syntax.toml")
            let line = good.split(separator: "\n", omittingEmptySubsequences: false).count + 1
            let (ending, errors, output) = try await run(["--config", file])
            #expect(ending == .exited(78))
            #expect((errors + output).contains("syntax.toml:\(line)"), "\(errors)")
        }

        @Test func `a key of another certificate is refused`() async throws {
            let other = try await CertificateMaker(folder: folder).selfSigned("other")
            let mixed = Identity(certificate: identity.certificate, privateKey: other.privateKey)
            let file = try folder.write(
                Service(listen: [try .freeOnOwnLoopback()], identity: mixed).text, to: "mixed.toml")
            let (ending, errors, output) = try await run(["--config", file])
            #expect(ending == .exited(78))
            #expect((errors + output).contains("private_key"))
        }
    }
}
