import Foundation
import LinuxSystem
import TestSupport

/// A file of config/examples, as users get it but for the addresses. The files that it names are looked for in the
/// folder of the test.
struct ExampleConfiguration {
    struct Mistake: Error, CustomStringConvertible {
        let description: String
    }

    private(set) var text: String
    private let name: String

    init(_ name: String) throws {
        self.name = name
        let root = URL(filePath: #filePath).appending(path: "../../../..").standardized
        text = try String(contentsOf: root.appending(path: "config/examples/\(name)"), encoding: .utf8)
    }

    /// A service in front of a backend.
    init(_ name: String, listen: [SocketAddress], backend: SocketAddress? = nil) throws {
        try self.init(name)
        try set("listen", "[\(listen.map { "\"\($0)\"" }.joined(separator: ", "))]")
        if let backend { try set("backend", "\"udp:\(backend)\"") }
    }

    /// A client of a server.
    init(_ name: String, listen: [SocketAddress], connect: SocketAddress) throws {
        try self.init(name, listen: listen)
        try set("connect", "\"\(connect)\"")
    }

    /// With another line in the place of one.
    func replacing(_ line: String, with other: String) throws -> ExampleConfiguration {
        guard text.contains("\n\(line)\n") else { throw Mistake(description: "\(name) has no line '\(line)'") }
        var result = self
        result.text = text.replacingOccurrences(of: "\n\(line)\n", with: "\n\(other)\n")
        return result
    }

    /// Changes the value of the one line that sets a key.
    private mutating func set(_ key: String, _ value: String) throws {
        var lines = text.components(separatedBy: "\n")
        let found = lines.indices.filter { lines[$0].hasPrefix("\(key) = ") }
        guard found.count == 1 else { throw Mistake(description: "\(name) sets \(key) \(found.count) times") }
        lines[found[0]] = "\(key) = \(value)"
        text = lines.joined(separator: "\n")
    }
}

/// Software that dtlsd is used with.
enum ForeignProgram {
    /// Starts one that serves on a UDP port, and waits until it does.
    static func serve(
        _ arguments: [String], on address: SocketAddress, in folder: TestFolder, name: String? = nil
    ) async throws -> Program {
        let program = try Program(arguments, in: folder, name: name)
        try await eventually("\(arguments[0]) serves on \(address)", details: program.errors + program.output) {
            guard program.ending == nil else {
                throw Program.CannotStart(description: "\(program.command) ended: \(program.errors)\(program.output)")
            }
            return ProcessTable.localPorts(of: program.pid).contains(address.port)
        }
        return program
    }

    /// Runs one until its output has `text`: the first tries may come while others are still starting.
    @discardableResult
    static func run(
        _ arguments: [String], until text: String, in folder: TestFolder, input: String = ""
    ) async throws -> String {
        var output = ""
        for _ in 0..<5 {
            let program = try Program(arguments, in: folder)
            program.send(input)
            program.closeInput()
            _ = try await program.ended()
            output = program.output + program.errors
            if output.contains(text) { return output }
        }
        throw Program.CannotStart(description: "\(arguments.joined(separator: " ")) never said \"\(text)\": \(output)")
    }
}
