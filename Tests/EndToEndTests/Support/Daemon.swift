import Foundation
import LinuxSystem
import TestSupport

/// The real dtlsd, with a configuration and a log of its own.
final class Daemon: Sendable {
    let program: Program
    let folder: TestFolder
    /// The file that it was started with.
    let configurationFile: String

    struct Failure: Error, CustomStringConvertible {
        let description: String
    }

    private init(program: Program, folder: TestFolder, configurationFile: String) {
        self.program = program
        self.folder = folder
        self.configurationFile = configurationFile
    }

    /// $DTLSD_BINARY, or the program that was built with these tests.
    static var binary: String { ProcessInfo.processInfo.environment["DTLSD_BINARY"] ?? built("dtlsd") }
    /// Whether its workers can be told what to do (`Sources/DTLSDaemon/Worker/StandIn.swift`), as in the debug build that
    /// is beside these tests.
    static var hasStandIn: Bool { ProcessInfo.processInfo.environment["DTLSD_BINARY"] == nil }
    /// The tool, likewise.
    static var tool: String { ProcessInfo.processInfo.environment["DTLS_BINARY"] ?? built("dtls") }

    private static func built(_ name: String) -> String {
        let tests = (try? FileManager.default.destinationOfSymbolicLink(atPath: "/proc/self/exe")) ?? ""
        return URL(fileURLWithPath: tests).deletingLastPathComponent().appendingPathComponent(name).path
    }

    /// Starts it and waits until it is ready.
    /// - Parameter prefix: a program that becomes it, and that program's arguments.
    static func start(
        _ configuration: String, in folder: TestFolder, descriptorLimit: Int? = nil,
        environment: [String: String] = [:],
        prefix: [String] = []
    ) async throws -> Daemon {
        let file = try folder.write(configuration, to: "dtlsd.toml")
        let variables = environment.isEmpty ? [] : ["env"] + environment.map { "\($0.key)=\($0.value)" }
        let program = try Program(
            prefix + variables + [binary, "--config", file], in: folder, name: "dtlsd", descriptorLimit: descriptorLimit
        )
        let daemon = Daemon(program: program, folder: folder, configurationFile: file)
        try await eventually("dtlsd is ready", details: program.errors) {
            guard program.ending == nil else {
                throw Failure(description: "dtlsd ended at its start: \(program.errors)")
            }
            // With its marks: an address can be "already in use" too.
            return daemon.logs(" ready: ")
        }
        return daemon
    }

    var log: [Substring] { program.errors.split(separator: "\n") }

    /// The lines of the log that contain all of these.
    func lines(with parts: String...) -> [Substring] {
        log.filter { line in parts.allSatisfy { line.contains($0) } }
    }

    func logs(_ parts: String...) -> Bool {
        log.contains { line in parts.allSatisfy { line.contains($0) } }
    }

    /// Waits until `count` lines of the log contain all of these, and returns them.
    @discardableResult
    func logged(_ parts: String..., count: Int = 1) async throws -> [Substring] {
        try await eventualValue("\(count) × \(parts) in the log", details: program.errors) {
            let found = log.filter { line in parts.allSatisfy { line.contains($0) } }
            return found.count >= count ? found : nil
        }
    }

    /// The worker processes that run now; not a loader, which is a child too and may still be about to end.
    var workers: [pid_t] {
        ProcessTable.children(of: program.pid).filter {
            ProcessTable.isRunning($0) && ProcessTable.name(of: $0).hasPrefix("dtlsd: worker ")
        }
    }

    /// How many sockets each worker has open.
    var workersSockets: [Int] { workers.map { ProcessTable.openSockets(of: $0) } }

    /// Replaces the configuration file in one step and tells the daemon.
    func reload(_ configuration: String) throws {
        try folder.write(configuration, to: "dtlsd.toml.new")
        var present = stat()
        if stat(configurationFile, &present) == 0 { chmod(folder.file("dtlsd.toml.new"), present.st_mode & 0o777) }
        rename(folder.file("dtlsd.toml.new"), configurationFile)
        program.signal(SIGHUP)
    }

    /// Has the daemon read another configuration, and stops the loader before that has sent its result.
    func reloadAndStopLoader(_ configuration: String) async throws -> pid_t {
        // Without this text the loader lives for some milliseconds, less than it takes to find it among a busy machine's
        // processes.
        let padding = String(repeating: "# A comment takes some time to read.\n", count: 25_000)
        try folder.write(configuration + padding, to: "dtlsd.toml")
        // The name must be the whole one: that of the loader of OCSP responses begins with the same words.
        func loader() -> pid_t? {
            ProcessTable.children(of: program.pid).first { ProcessTable.name(of: $0) == "dtlsd: loader" }
        }
        return try await eventualValue("the loader is stopped before it has sent its result", details: program.errors) {
            if let late = loader() {
                kill(late, SIGCONT)
                return nil
            }
            let failures = lines(with: "reload failed").count
            program.signal(SIGHUP)
            for _ in 0..<10_000 {
                guard let loader = loader() else { continue }
                kill(loader, SIGSTOP)
                // A result that the loader has sent before it stopped has woken the main process up, which sleeps again
                // only when it has read the result and logged the failure.
                for _ in 0..<10_000
                where ProcessTable.isStopped(loader) && ProcessTable.sleep(of: program.pid) != nil {
                    return lines(with: "reload failed").count == failures ? loader : nil
                }
                return nil
            }
            return nil
        }
    }

    /// Stops it as a service manager does; it must end well.
    func stop() async throws {
        program.signal(SIGTERM)
        let ending = try await program.ended()
        guard ending == .exited(0) else {
            throw Failure(description: "dtlsd ended with \(ending) when it was stopped: \(program.errors)")
        }
    }
}

/// Text of a `[service.NAME]` table.
struct Service {
    var name = "echo"
    var listen: [SocketAddress]
    var identity: Identity
    var handler = "echo"
    /// More keys of the table, and sub-tables, as they are written in the file.
    var more = ""

    var text: String {
        """
        [service.\(name)]
        listen = [\(listen.map { "\"\($0)\"" }.joined(separator: ", "))]
        certificate = "\(identity.certificate)"
        private_key = "\(identity.privateKey)"
        handler = "\(handler)"
        \(more)

        """
    }

    static func forwarding(to backend: String, listen: SocketAddress, identity: Identity, more: String = "") -> Service
    {
        let table = "[service.forward.forward]\nbackend = \"\(backend)\""
        return Service(
            name: "forward", listen: [listen], identity: identity, handler: "forward", more: "\(more)\n\(table)")
    }
}
