#if NIO
    import Foundation
    import LinuxSystem
    import TestSupport
    import Testing

    /// The examples for swift-nio, and the article that shows them.
    @Suite struct ExampleTests {
        private static let repository = URL(fileURLWithPath: #filePath).deletingLastPathComponent()
            .appendingPathComponent("../..").standardized.path

        /// A program that was built beside the tests.
        private static func executable(_ name: String) -> String {
            let tests = (try? FileManager.default.destinationOfSymbolicLink(atPath: "/proc/self/exe")) ?? ""
            return URL(fileURLWithPath: tests).deletingLastPathComponent().appendingPathComponent(name).path
        }

        private static func text(_ path: String) throws -> String {
            try String(contentsOfFile: "\(repository)/\(path)", encoding: .utf8)
        }

        @Test func `the article shows the examples as they are`() throws {
            let article = try Self.text("Sources/DTLSKit/DTLSKit.docc/NIO.md")
            let shown = article.components(separatedBy: "```swift\n").dropFirst()
                .compactMap { $0.components(separatedBy: "```").first }
            let programs = try ["NIOServer", "NIOClient"].map { name in
                let lines = try Self.text("Examples/\(name)/main.swift").components(separatedBy: "\n")
                // Between #if and #else, where all is four columns further to the right.
                return lines.dropFirst().prefix { $0 != "#else" }.map { String($0.dropFirst(4)) + "\n" }.joined()
            }
            #expect(shown == programs)
        }

        @Test func `the server's example answers the client's and OpenSSL's client`() async throws {
            let credentials = try await Credentials.shared
            let folder = credentials.folder.path
            let port = try SocketAddress.free(on: "127.0.0.1").port
            let server = try Program(
                ["env", "-C", folder, "stdbuf", "-oL", Self.executable("NIOServer"), "\(port)"],
                in: credentials.folder)
            try await eventually("it listens", details: server.output + server.errors) {
                server.output.contains("Listening on")
            }
            let client = try Program(
                ["env", "-C", folder, Self.executable("NIOClient"), "\(port)"], in: credentials.folder)
            #expect(try await client.ended() == .exited(0), "\(client.errors)")
            #expect(client.output == "Hello\n")
            let theirs = try Program(
                [
                    "openssl", "s_client", "-dtls1_2", "-nbio", "-connect", "127.0.0.1:\(port)",
                    "-verify_return_error", "-CAfile", credentials.certificateFile,
                ], in: credentials.folder)
            theirs.send("typed\n")
            try await eventually("the line comes back", details: theirs.output + theirs.errors) {
                theirs.output.contains("typed")
            }
            theirs.send("Q\n")
            #expect(try await theirs.ended() == .exited(0))
            try await eventually("both were announced", details: server.output) {
                server.output.components(separatedBy: "127.0.0.1:").count > 3
            }
        }
    }
#endif
