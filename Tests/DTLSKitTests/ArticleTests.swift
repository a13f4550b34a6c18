import DTLSKit
import Foundation
import TestSupport
import Testing

/// What the articles tell a new user to do, done from their text.
@Suite(.serialized) struct ArticleTests {
    private struct Block {
        let language: String
        let text: String
        /// The line of prose before it.
        let introduction: String
    }

    private static let repository = URL(fileURLWithPath: #filePath).deletingLastPathComponent()
        .appendingPathComponent("../..").standardized.path

    private static func blocks(of article: String) throws -> [Block] {
        let text = try String(
            contentsOfFile: "\(repository)/Sources/DTLSKit/DTLSKit.docc/\(article).md", encoding: .utf8)
        var blocks: [Block] = []
        var introduction = ""
        var language: String?
        var lines: [Substring] = []
        for line in text.split(separator: "\n", omittingEmptySubsequences: false) {
            if line.hasPrefix("```") {
                if let begun = language {
                    blocks.append(
                        Block(
                            language: begun, text: lines.joined(separator: "\n") + "\n", introduction: introduction))
                    language = nil
                } else {
                    language = String(line.dropFirst(3))
                }
                lines = []
            } else if language != nil {
                lines.append(line)
            } else if !line.isEmpty {
                introduction = String(line)
            }
        }
        return blocks
    }

    /// Compiles a program against the library that was built beside the tests.
    /// - Parameter output: the program; `nil`: it is only checked.
    private func compile(_ source: String, to output: String?, in folder: TestFolder) async throws {
        let binaries = URL(fileURLWithPath: Executables.path("")).path
        var arguments = [
            "swiftc", "-swift-version", "6", "-warnings-as-errors", "-I", folder.path, "-I", "\(binaries)/Modules",
            "-module-cache-path", "\(folder.path)/cache",
        ]
        for map in [
            "\(Self.repository)/Sources/COpenSSL/module.modulemap",
            "\(Self.repository)/Sources/COpenSSLClock/include/module.modulemap",
            "\(binaries)/CLinux.build/module.modulemap",
        ] { arguments += ["-Xcc", "-fmodule-map-file=\(map)"] }
        arguments += ["-Xcc", "-I", "-Xcc", "\(Self.repository)/Sources/CLinux/include", source]
        if let output {
            for module in [
                "DTLSKit", "DTLSTransport", "DTLSEngine", "LinuxSystem", "Primitives", "CLinux", "COpenSSLClock",
            ] {
                let objects = FileManager.default.enumerator(atPath: "\(binaries)/\(module).build")
                arguments += (objects?.compactMap { $0 as? String } ?? []).filter { $0.hasSuffix(".o") }
                    .map { "\(binaries)/\(module).build/\($0)" }
            }
            arguments += ["-lssl", "-lcrypto", "-o", output]
            if binaries.contains("asan") { arguments.append("-sanitize=address") }
        } else {
            arguments.append("-typecheck")
        }
        let compiler = try Program(arguments, in: folder)
        #expect(try await compiler.ended() == .exited(0), "\(compiler.output)\(compiler.errors)")
    }

    /// What the articles use of packages that this one does not depend on, as these have it: swift-log and swift-metrics.
    private static let standIns = [
        "Logging": """
        public struct Logger: Sendable {
            public struct Message: ExpressibleByStringInterpolation { public init(stringLiteral: String) {} }
            public enum MetadataValue: ExpressibleByStringInterpolation { case string(String)
                public init(stringLiteral value: String) { self = .string(value) } }
            public typealias Metadata = [String: MetadataValue]
            public init(label: String) {}
            public func debug(_ message: @autoclosure () -> Message, metadata: @autoclosure () -> Metadata? = nil) {}
            public func info(_ message: @autoclosure () -> Message, metadata: @autoclosure () -> Metadata? = nil) {}
            public func notice(_ message: @autoclosure () -> Message, metadata: @autoclosure () -> Metadata? = nil) {}
        }
        """,
        "Metrics": """
        public final class Counter: Sendable {
            public init(label: String, dimensions: [(String, String)] = []) {}
            public func increment<Value: BinaryInteger>(by amount: Value) {}
            public func increment() {}
        }
        public final class Timer: Sendable {
            public init(label: String, dimensions: [(String, String)] = []) {}
            public func recordNanoseconds(_ duration: Int64) {}
        }
        public final class Gauge: Sendable {
            public init(label: String, dimensions: [(String, String)] = []) {}
            public func record<Value: BinaryFloatingPoint>(_ value: Value) {}
        }
        """,
    ]

    @Test func `the programs of Getting started can be built, and talk as it says`() async throws {
        let folder = try TestFolder()
        let port = try ForeignPeer.freePort()
        // Its port may be in use here.
        let blocks = try Self.blocks(of: "GettingStarted").map {
            Block(
                language: $0.language, text: $0.text.replacing("2049", with: "\(port)"),
                introduction: $0.introduction)
        }
        let commands = blocks.filter { $0.language == "sh" }.map(\.text)
        let files = blocks.filter { $0.language == "swift" }
        try #require(commands.count == 5 && files.count == 3)
        func run(_ command: String, in path: String) async throws {
            let program = try Program(["env", "-C", path, "bash", "-ec", command], in: folder)
            #expect(try await program.ended() == .exited(0), "\(program.errors)")
        }
        try await run(commands[0], in: folder.path)
        let package = "\(folder.path)/echo-server"
        for file in files {
            // "… `Sources/echo-server/main.swift`:"
            let name = try #require(file.introduction.split(separator: "`").first { $0.hasSuffix(".swift") })
            try file.text.write(toFile: "\(package)/\(name)", atomically: true, encoding: .utf8)
        }
        let manifest = try Program(["env", "-C", package, "swift", "package", "dump-package"], in: folder)
        #expect(try await manifest.ended() == .exited(0), "\(manifest.errors)")
        for target in ["echo-server", "echo-client"] { #expect(manifest.output.contains("\"\(target)\"")) }
        // Nothing else is in the package that could be in the way.
        for target in ["echo-server", "echo-client"] {
            let sources = try FileManager.default.contentsOfDirectory(atPath: "\(package)/Sources/\(target)")
            #expect(sources == ["main.swift"])
            try await compile("\(package)/Sources/\(target)/main.swift", to: "\(package)/\(target)", in: folder)
        }
        // The library stands by itself: nothing is fetched from elsewhere for it.
        try FileManager.default.createSymbolicLink(atPath: "\(folder.path)/dtlsd", withDestinationPath: Self.repository)
        let resolver = try Program(["env", "-C", package, "swift", "package", "show-dependencies"], in: folder)
        #expect(try await resolver.ended() == .exited(0), "\(resolver.errors)")
        let packages = resolver.output.split(separator: "\n").filter { $0.contains("── ") }
        #expect(packages.count == 1 && packages.allSatisfy { $0.contains("dtlsd<") }, "\(resolver.output)")
        try await run(commands[1], in: package)

        #expect(commands[2] == "swift run echo-server\n")
        let server = try Program(["env", "-C", package, "stdbuf", "-oL", "\(package)/echo-server"], in: folder)
        try await eventually("the server listens", details: server.output + server.errors) {
            server.output.contains("Listening on: 0.0.0.0:\(port)")
        }
        let theirs = try Program(["env", "-C", package, "bash", "-ec", "exec \(commands[3])"], in: folder)
        theirs.send("typed\n")
        try await eventually("the line comes back", details: theirs.output + theirs.errors) {
            theirs.output.contains("typed")
        }
        theirs.send("Q\n")
        #expect(try await theirs.ended() == .exited(0))
        #expect(theirs.output.contains("Verify return code: 0 (ok)"))

        #expect(commands[4] == "swift run echo-client\n")
        let client = try Program(["env", "-C", package, "\(package)/echo-client"], in: folder)
        #expect(try await client.ended() == .exited(0), "\(client.errors)")
        #expect(client.output == "Hello\n")
        #expect(server.ending == nil)
    }

    @Test(arguments: [
        "Asynchronous", "Client", "EventsAndTimers", "KeysForOtherProtocols", "LimitsAndDenialOfService",
        "MovingFromJavaScript", "MutualAuthentication", "Observing", "OtherLoops", "Peers", "PresharedKeys", "Server",
        "ServerPolicies", "SizesAndPaths",
    ])
    func `the programs of an article compile`(
        _ article: String
    ) async throws {
        let folder = try TestFolder()
        let blocks = try Self.blocks(of: article).filter { $0.language == "swift" }
        #expect(!blocks.isEmpty)
        for (number, block) in blocks.enumerated() {
            let place = "\(folder.path)/\(number)"
            for (module, text) in Self.standIns where block.text.contains("import \(module)\n") {
                let source = try folder.write(text, to: "\(module).swift")
                try await Program.run(
                    [
                        "swiftc", "-emit-module", "-module-name", module, "-swift-version", "6", "-module-cache-path",
                        "\(folder.path)/cache", "-o", folder.file("\(module).swiftmodule"), source,
                    ], in: folder, within: 300)
            }
            try FileManager.default.createDirectory(atPath: place, withIntermediateDirectories: true)
            try block.text.write(toFile: "\(place)/main.swift", atomically: true, encoding: .utf8)
            try await compile("\(place)/main.swift", to: nil, in: folder)
        }
    }
}
