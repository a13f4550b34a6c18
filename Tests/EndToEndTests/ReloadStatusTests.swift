import Glibc
import LinuxSystem
import TestSupport
import Testing

extension EndToEndClientMode {
    /// What the service manager is told of reloads; systemd/dtlsd-reload waits for ERRNO=.
    @Suite struct ReloadStatusTests {
        @Test func `the status says why the last reload failed`() async throws {
            let folder = try TestFolder()
            let identity = try await CertificateMaker(folder: folder).selfSigned("server")
            let address = try SocketAddress.freeOnOwnLoopback()
            let manager = try DatagramSocket(atPath: folder.file("notify"))
            let good = Service(listen: [address], identity: identity).text
            let daemon = try await Daemon.start(
                good, in: folder, environment: ["NOTIFY_SOCKET": folder.file("notify")])
            /// Waits for the end of a reload, and returns the status and the result that it comes with.
            func ready() async throws -> (status: String, result: String) {
                try await eventualValue("READY=1", details: daemon.program.errors) {
                    while let datagram = manager.receive()?.bytes {
                        let lines = String(decoding: datagram, as: UTF8.self).split(separator: "\n")
                        guard lines.contains("READY=1") else { continue }
                        guard let status = lines.first(where: { $0.hasPrefix("STATUS=") }),
                            let result = lines.first(where: { $0.hasPrefix("ERRNO=") })
                        else {
                            Issue.record("READY=1 without STATUS= and ERRNO=: \(lines)")
                            return nil
                        }
                        return (String(status), String(result))
                    }
                    return nil
                }
            }
            let started = try await ready()
            #expect(started.status.hasPrefix("STATUS=0 connections"))
            #expect(started.result == "ERRNO=0")

            // RFC 5737: no machine has it. `dtlsd --check` does not know.
            let foreign = try #require(SocketAddress(host: "192.0.2.1", port: 4_433))
            try daemon.reload(Service(listen: [address, foreign], identity: identity).text)
            let (status, result) = try await ready()
            #expect(result == "ERRNO=\(EINVAL)")
            #expect(status.hasPrefix("STATUS=the last reload failed: "))
            #expect(
                status.contains("dtlsd.toml: service.echo.listen: bind \(foreign): Cannot assign requested address"))
            #expect(status.contains("; 0 connections"))

            try daemon.reload(good)
            let mended = try await ready()
            #expect(mended.status.hasPrefix("STATUS=0 connections"))
            #expect(mended.result == "ERRNO=0")
            try await daemon.stop()
        }
    }
}
