import Glibc
import LinuxSystem
import TestSupport
import Testing

extension EndToEndClientMode {
    /// What the service manager is told of reloads: it cannot be told that one has failed, but for the status.
    @Suite struct ReloadStatusTests {
        @Test func `the status says why the last reload failed`() async throws {
            let folder = try TestFolder()
            let identity = try await CertificateMaker(folder: folder).selfSigned("server")
            let address = try SocketAddress.freeOnOwnLoopback()
            let manager = try DatagramSocket(atPath: folder.file("notify"))
            let good = Service(listen: [address], identity: identity).text
            let daemon = try await Daemon.start(
                good, in: folder, environment: ["NOTIFY_SOCKET": folder.file("notify")])
            /// Waits for the end of a reload, and returns the status that it comes with.
            func ready() async throws -> String {
                try await eventualValue("READY=1", details: daemon.program.errors) {
                    while let datagram = manager.receive()?.bytes {
                        let lines = String(decoding: datagram, as: UTF8.self).split(separator: "\n")
                        guard lines.contains("READY=1") else { continue }
                        return lines.first { $0.hasPrefix("STATUS=") }.map(String.init)
                    }
                    return nil
                }
            }
            #expect(try await ready().hasPrefix("STATUS=0 connections"))

            // RFC 5737: no machine has it. `dtlsd --check` does not know.
            let foreign = try #require(SocketAddress(host: "192.0.2.1", port: 4_433))
            try daemon.reload(Service(listen: [address, foreign], identity: identity).text)
            let status = try await ready()
            #expect(status.hasPrefix("STATUS=the last reload failed: "))
            #expect(
                status.contains("dtlsd.toml: service.echo.listen: bind \(foreign): Cannot assign requested address"))
            #expect(status.contains("; 0 connections"))

            try daemon.reload(good)
            #expect(try await ready().hasPrefix("STATUS=0 connections"))
            try await daemon.stop()
        }
    }
}
