import Foundation
import LinuxSystem
import TestSupport

/// A client or server on a stack that has connection IDs, made by `scripts/peers` (Tests/Peers).
final class PeerProgram: Sendable {
    enum Stack: String, CaseIterable, Sendable {
        case mbedTLS = "mbedtls-peer"
        case wolfSSL = "wolfssl-peer"
        case pion = "pion-peer"

        /// pion 3.1.5 puts no connection ID into its Finished of a resumed handshake (Tests/Peers/pion/main.go), so a
        /// server that gets it from another port cannot tell whose it is.
        var isFoundByItsResumedFinished: Bool { self != .pion }

        var path: String {
            URL(filePath: #filePath).deletingLastPathComponent().appending(path: "../../../.peers/\(rawValue)")
                .standardized.path
        }
    }

    /// Whether `scripts/peers` has made all of them.
    static let areMade = Stack.allCases.allSatisfy { FileManager.default.isExecutableFile(atPath: $0.path) }
    static let howToMake = "scripts/peers has not been run, which makes clients and servers on other stacks"

    enum Credentials: String, CaseIterable, Sendable {
        case certificate
        case presharedKey

        static let identity = "sensor-7"
        static let key = "00112233445566778899aabbccddeeff"
    }

    let stack: Stack
    private let program: Program

    /// A client, which does its handshake at once.
    /// - Parameter connectionID: hexadecimal; `nil`: the extension is not offered.
    init(
        _ stack: Stack, to server: SocketAddress, connectionID: String?, by credentials: Credentials,
        in folder: TestFolder
    )
        throws
    {
        self.stack = stack
        program = try Program(
            [stack.path, "client", "\(server)"] + Self.options(connectionID, credentials, nil), in: folder)
    }

    /// A server, which listens when this returns.
    /// - Parameter prefix: a program that becomes it, and that program's arguments.
    init(
        _ stack: Stack, at address: SocketAddress, connectionID: String?, by credentials: Credentials,
        identity: Identity, in folder: TestFolder, prefix: [String] = []
    ) async throws {
        self.stack = stack
        program = try Program(
            prefix + [stack.path, "server", "\(address)"] + Self.options(connectionID, credentials, identity),
            in: folder)
        try await prints("listening")
    }

    private static func options(_ connectionID: String?, _ credentials: Credentials, _ identity: Identity?) -> [String]
    {
        var options = connectionID.map { ["cid=\($0)"] } ?? []
        switch credentials {
        case .certificate:
            if let identity { options += ["certificate=\(identity.certificate)", "key=\(identity.privateKey)"] }
        case .presharedKey:
            options.append("psk=\(Credentials.identity):\(Credentials.key)")
        }
        return options
    }

    /// One line for each thing that has happened.
    var output: [String] { program.output.split(separator: "\n").map(String.init) }

    /// Waits until `count` lines begin with `prefix`, and returns the last of these.
    @discardableResult
    func prints(_ prefix: String, count: Int = 1, details: @autoclosure () -> String = "") async throws -> String {
        let lines = try await eventualValue(
            "\(stack.rawValue) prints \(count) × '\(prefix)'",
            details: "\(output)\n\(program.errors)\n\(details())"
        ) {
            let lines = output.filter { $0.hasPrefix(prefix) }
            return lines.count >= count || program.ending != nil ? lines : nil
        }
        guard lines.count >= count else {
            throw NeverHappened(description: "\(stack.rawValue) ended: \(output)\n\(details())")
        }
        return lines[count - 1]
    }

    /// Gives a client a command, and returns the first line after it that begins with one of the prefixes.
    @discardableResult
    func perform(_ command: String, until prefixes: String..., details: @autoclosure () -> String = "") async throws
        -> String
    {
        let before = output.count
        program.send(command + "\n")
        return try await eventualValue(
            "\(stack.rawValue) performs '\(command)'", details: "\(output)\n\(program.errors)\n\(details())"
        ) {
            guard let line = output.dropFirst(before).first(where: { line in prefixes.contains { line.hasPrefix($0) } })
            else {
                guard program.ending == nil else {
                    throw NeverHappened(description: "\(stack.rawValue) ended: \(output)\n\(details())")
                }
                return nil
            }
            return line
        }
    }

    /// Exchanges this many messages with an echo, one after the other.
    func echo(_ count: Int, details: @autoclosure () -> String = "") async throws -> Bool {
        try await perform("echo \(count)", until: "echoed ", details: details()) == "echoed \(count) of \(count)"
    }

    /// Sends a message, and waits for nothing.
    func say(_ text: String) { program.send("send \(text)\n") }

    /// Sends a message and returns what comes back, as the client prints it: "received …".
    func exchange(_ text: String, details: @autoclosure () -> String = "") async throws -> String {
        say(text)
        return try await perform("receive", until: "received ", "closed", details: details())
    }

    /// Ends a server, so that another one can have its port.
    func kill() async throws {
        program.signal(SIGKILL)
        _ = try await program.ended()
    }

    /// Ends the client with close_notify.
    func leave() async throws {
        program.closeInput()
        _ = try await program.ended()
    }
}

/// What a handshake of a peer has led to, by the line that it prints.
struct PeerHandshake: Equatable {
    var isResumed: Bool
    /// Hexadecimal; "none" where no connection ID was agreed on. pion says "none" for an empty one, too.
    var own: String
    var peer: String

    init(_ line: String) throws {
        guard let parts = line.wholeMatch(of: /handshake done: (full|resumed) own=(\w*) peer=(\w*)/) else {
            throw NeverHappened(description: "a handshake is done: \(line)")
        }
        isResumed = parts.1 == "resumed"
        own = String(parts.2)
        peer = String(parts.3)
    }
}
