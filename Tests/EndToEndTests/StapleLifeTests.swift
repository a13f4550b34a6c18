import Foundation
import LinuxSystem
import TestSupport
import Testing

extension EndToEnd {
    /// What happens to OCSP responses when their folder goes, and when their time is over.
    @Suite struct StapleLifeTests {
        let folder: TestFolder
        let certificates: CertificateMaker
        let authority: Identity
        let identity: Identity
        let address: SocketAddress

        init() async throws {
            folder = try TestFolder()
            certificates = CertificateMaker(folder: folder)
            authority = try await certificates.selfSigned("authority")
            identity = try await certificates.issued("server", by: authority, names: "DNS:localhost")
            address = try .freeOnOwnLoopback()
        }

        private func service(stapling file: String) -> String {
            Service(listen: [address], identity: identity, more: "ocsp_staple = \"\(file)\"").text
        }

        /// As when a volume is mounted anew, or a deployment takes the old folder away before it makes the new one.
        @Test func `a folder that goes away and comes back is still watched`() async throws {
            let old = try await certificates.response("old.ocsp", about: identity, by: authority, .revoked)
            let new = try await certificates.response("new.ocsp", about: identity, by: authority)
            let (upper, lower) = (folder.file("upper"), folder.file("upper/lower"))
            try FileManager.default.createDirectory(atPath: lower, withIntermediateDirectories: true)
            #expect(rename(old, lower + "/response") == 0)
            let daemon = try await Daemon.start(service(stapling: "upper/lower/response"), in: folder)
            #expect(rename(lower, folder.file("gone")) == 0)
            #expect(rmdir(upper) == 0)
            try await daemon.logged(
                "warning", "ocsp_staple", "No such file or directory", "is stapled until it expires")
            #expect(mkdir(upper, 0o700) == 0)
            #expect(mkdir(lower, 0o700) == 0)
            #expect(rename(new, lower + "/response") == 0)
            try await daemon.logged("OCSP responses have changed")
            try await daemon.stop()
        }

        /// Whether it has been taken and has run out, or has run out before it was taken.
        private func runsOut(_ response: Data, after seconds: Int) async throws -> Bool {
            let now = ISO8601DateFormatter.string(
                from: .now + TimeInterval(seconds), timeZone: .gmt,
                formatOptions: [.withYear, .withMonth, .withDay, .withTime])
            let end = Data(now.filter(\.isNumber).utf8)
            // The third GeneralizedTime of a response, after producedAt and thisUpdate, is nextUpdate.
            var changed = response
            let tag = Data([0x18, 0x0f])
            var position = changed.startIndex
            for _ in 0..<3 {
                position = try #require(changed.range(of: tag, in: position..<changed.endIndex)).upperBound
            }
            changed.replaceSubrange(position..<(position + end.count), with: end)
            try changed.write(to: URL(fileURLWithPath: folder.file("served.ocsp")))
            let daemon = try await Daemon.start(service(stapling: "served.ocsp"), in: folder)
            let isTaken = !daemon.logs("the OCSP response is not valid now")
            if isTaken {
                try await daemon.logged("warning", "service.echo.ocsp_staple", "the OCSP response has expired")
                #expect(daemon.lines(with: "the OCSP response has expired").count == 1)
            }
            try await daemon.stop()
            return isTaken
        }

        @Test func `an OCSP response that expires is logged`() async throws {
            let file = try await certificates.response("served.ocsp", about: identity, by: authority)
            let response = try Data(contentsOf: URL(fileURLWithPath: file))
            // A slow machine may need longer to start.
            for seconds in [3, 10, 40] where try await runsOut(response, after: seconds) { return }
            Issue.record("none was taken")
        }
    }
}
