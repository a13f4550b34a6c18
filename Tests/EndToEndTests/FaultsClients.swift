import Foundation
import LinuxSystem
import TestSupport

/// A client that stays, and all that it has said and heard.
final class FaultClient {
    enum Kind: String, CaseIterable {
        case openSSL, gnuTLS, mutual, presharedKey, connectionID, forwarded, slow, tool
    }

    let kind: Kind
    /// A word that no other client says.
    let name: String
    private let program: Program
    /// The way that its datagrams take; `nil` for the short one.
    private let path: SlowPath?
    private var said: [String] = []
    private var random: SeededGenerator

    /// - Parameter name: without a space.
    init(
        _ kind: Kind, _ name: String, seed: UInt64, command: [String], path: SlowPath?, in folder: TestFolder
    ) throws {
        (self.kind, self.name, self.path) = (kind, name, path)
        random = SeededGenerator(seed: seed)
        program = try Program(command, in: folder)
    }

    var hasEnded: Bool { program.ending != nil }
    var errors: String { "\(kind) \(name) (\(program.command)): \(program.errors.suffix(600))" }

    /// Says a line that no other is equal to, of some length: s_client makes one record of several lines that wait for it,
    /// and one larger than a packet ends it.
    @discardableResult
    func say() -> String {
        let filler = (0..<Int(random.next() % 250)).map { _ in
            Character(UnicodeScalar(UInt8(97 + random.next() % 26)))
        }
        let line = "fault-\(name)-\(said.count)-\(String(filler))."
        said.append(line)
        program.send(line + "\n")
        return line
    }

    /// What has come back, without what a backend has put in front of it, and without what a program says by itself.
    private var heard: [Substring] {
        program.output.split(separator: "\n").compactMap { line in
            line.range(of: "fault-").map { line[$0.lowerBound...] }
        }
    }

    /// Says lines until one comes back. A datagram may get lost; a connection may not.
    /// - Returns: how long it took.
    @discardableResult
    func exchange(within seconds: Double) async throws -> Duration {
        let clock = ContinuousClock()
        let start = clock.now
        while clock.now < start + .seconds(seconds) {
            guard !hasEnded else { throw NeverHappened(description: "a client has ended: \(errors)") }
            let line = say()
            do {
                try await eventually("an answer", within: 1) { program.output.contains(line + "\n") }
                return clock.now - start
            } catch is NeverHappened { continue }
        }
        throw NeverHappened(description: "nothing comes back to a client in \(seconds) s: \(errors)")
    }

    /// What has come back that was not said, or came back twice. The last line may be there in part only.
    var wrong: [Substring] {
        let text = program.output
        let complete = text.hasSuffix("\n") ? heard[...] : heard.dropLast()
        var left = Set(said.map { $0[...] })
        return complete.filter { left.remove($0) == nil }
    }

    /// Says goodbye.
    func leave() async throws {
        program.closeInput()
        _ = try await program.ended()
    }

    /// Goes without a word.
    func vanish() async throws {
        program.signal(SIGKILL)
        _ = try await program.ended()
    }
}
