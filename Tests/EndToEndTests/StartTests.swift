import LinuxSystem
import TestSupport
import Testing

extension EndToEndClientMode {
    /// Starts that fail for other reasons than what the file says: with what status, and what is said of them.
    @Suite struct StartTests {
        let folder: TestFolder
        let identity: Identity

        init() async throws {
            folder = try TestFolder()
            identity = try await CertificateMaker(folder: folder).selfSigned("server")
        }

        private func run(_ configuration: String, prefix: [String] = []) async throws -> (
            Program.Ending, errors: String
        ) {
            let file = try folder.write(configuration, to: "dtlsd.toml")
            let program = try Program(prefix + [Daemon.binary, "--config", file], in: folder)
            return (try await program.ended(), program.errors)
        }

        /// A name server that does not answer during boot is no reason to give up for good
        /// (RestartPreventExitStatus=78).
        @Test(.enabled(if: PrivateNetwork.isAllowed, "a network of its own takes root"), arguments: [false, true])
        func `an unreachable name server is not reported as a fault of the configuration`(_ isFaultyToo: Bool)
            async throws
        {
            let address = try SocketAddress.freeOnOwnLoopback()
            let more = isFaultyToo ? "mtu = 1" : ""
            let (ending, errors) = try await run(
                Service.forwarding(to: "udp:backend.example:5683", listen: address, identity: identity, more: more)
                    .text,
                prefix: PrivateNetwork.prefix(mtu: 1_500))
            #expect(ending == .exited(isFaultyToo ? 78 : 75), "\(errors)")
            #expect(
                errors.contains("service.forward.forward.backend: the host name \"backend.example\" has no address"))
        }

        /// All addresses that cannot be had are named at once.
        @Test func `addresses that are in use, or not of this machine, are reported`() async throws {
            let held = [try DatagramSocket(at: .freeOnOwnLoopback()), try DatagramSocket(at: .freeOnOwnLoopback())]
            // RFC 5737: no machine has it.
            let foreign = try #require(SocketAddress(host: "192.0.2.1", port: 4_433))
            let (ending, errors) = try await run(
                Service(name: "one", listen: [held[0].local, foreign], identity: identity).text
                    + Service(name: "two", listen: [held[1].local], identity: identity).text)
            #expect(ending == .exited(71))
            #expect(errors.contains("dtlsd.toml: service.one.listen: bind \(held[0].local): Address already in use"))
            #expect(errors.contains("dtlsd.toml: service.one.listen: bind \(foreign): Cannot assign requested address"))
            #expect(errors.contains("dtlsd.toml: service.two.listen: bind \(held[1].local): Address already in use"))
            #expect(errors.contains("stopping: the sockets cannot be opened"), "\(errors)")
        }

        @Test(.enabled(if: PrivateNetwork.isAllowed, "a network of its own takes root"))
        func `a port that requires a capability is reported with what to do`() async throws {
            let address = try #require(SocketAddress(host: SocketAddress.ownLoopback, port: 853))
            let (ending, errors) = try await run(
                Service(listen: [address], identity: identity).text,
                prefix: PrivateNetwork.prefix(mtu: 1_500) + ["setpriv", "--bounding-set=-net_bind_service"])
            #expect(ending == .exited(71))
            #expect(errors.contains("bind \(address): Permission denied"), "\(errors)")
            #expect(errors.contains("CAP_NET_BIND_SERVICE"))
        }

        @Test func `a service without an address is reported`() async throws {
            let (ending, errors) = try await run(
                Service(name: "one", listen: [], identity: identity).text.replacing("listen = []\n", with: "")
                    + Service(name: "two", listen: [], identity: identity).text.replacing("listen = []\n", with: ""))
            #expect(ending == .exited(78))
            for name in ["one", "two"] {
                #expect(
                    errors.contains(
                        "dtlsd.toml: service.\(name).listen: no address to listen on, and no socket named \"\(name)\""),
                    "\(errors)")
            }
            #expect(errors.contains("stopping: the configuration cannot be used"))
        }
    }
}
