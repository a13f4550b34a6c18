import ArgumentParser
import CLinux
import ControlProtocol
import Foundation
import TestSupport
import Testing

@testable import dtls

/// The tool as a process, against a control socket that answers as each test says.
@Suite struct ControlSocketTests {
    private let folder: TestFolder

    init() throws { folder = try TestFolder() }

    private func run(
        _ arguments: String..., answer: @escaping FakeDaemon.Answering
    ) async throws -> (result: ToolRun.Result, commands: [ControlCommand]) {
        let daemon = try FakeDaemon(in: folder, answer)
        defer { daemon.stop() }
        let program = try Program([ToolRun.binary] + arguments + ["--socket", daemon.path], in: folder)
        program.closeInput()
        guard case .exited(let status) = try await program.ended(within: 60) else { throw ToolRun.Killed() }
        return (ToolRun.Result(output: program.output, errors: program.errors, status: status), daemon.commands)
    }

    @Test func `status prints what the daemon says, in full where standard output is no terminal`() async throws {
        let (result, commands) = try await run("status") { _ in .result(Samples.status()) }
        #expect(result.status == 0)
        #expect(result.errors == "")
        #expect(result.output.hasPrefix("dtlsd 0.1.0 is ready, up 3h 12m\n"))
        #expect(result.output.contains("0.0.0.0:5684 [::]:5684"))
        #expect(!result.output.contains("\u{1b}"))
        #expect(commands == [.status])
    }

    @Test func `the exit status of a readiness check says whether clients are served`() async throws {
        let ready = try await run("status", "--ready") { _ in .result(Samples.status()) }.result
        #expect(ready.status == 0)
        #expect(ready.output == "ready\n")
        let starting = try await run("status", "--ready") { _ in
            .result(Samples.status(isReady: false, phase: "starting"))
        }.result
        #expect(starting.status == 4)
        #expect(starting.output == "")
        #expect(starting.errors == "dtls: dtlsd is not ready: it is starting.\n")
    }

    @Test func `JSON is the daemon's own, with fields that this version does not know`() async throws {
        let result = #"{"count":18446744073709551615,"new":{"a":[1,2.50]},"text":"\u001b[2J\u009b"}"#
        let (run, commands) = try await run("close", "--all", "--json") { _ in
            .line(#"{"ok":true,"result":"# + result + #","version":1}"#)
        }
        #expect(run.status == 0)
        #expect(run.output == result + "\n")
        #expect(commands == [.close(.all)])
    }

    @Test func `a socket that is not there is a daemon that does not run`() async throws {
        let path = folder.file("none.sock")
        let result = try await ToolRun.run("status", socket: path, in: folder)
        #expect(result.status == 3)
        #expect(result.output == "")
        #expect(result.errors.hasPrefix("dtls: There is no control socket \(path). Is dtlsd running"))
    }

    @Test func `a socket at which nobody listens is a daemon that has ended`() async throws {
        let daemon = try FakeDaemon(in: folder) { _ in .silence }
        daemon.stop()
        let result = try await ToolRun.run("reload", socket: daemon.path, in: folder)
        #expect(result.status == 3)
        #expect(result.errors.contains("has ended"))
    }

    @Test(.enabled(if: getuid() == 0, "only root can become somebody else"))
    func `who may not open the socket is told which group may`() async throws {
        let daemon = try FakeDaemon(in: folder) { _ in .silence }
        defer { daemon.stop() }
        chmod(folder.path, 0o755)
        chmod(daemon.path, 0o660)
        let users = String(decoding: FileManager.default.contents(atPath: "/etc/group") ?? Data(), as: UTF8.self)
        let fields = users.split(separator: "\n").map { $0.split(separator: ":", omittingEmptySubsequences: false) }
        let group = try #require(fields.first { $0.count > 2 && $0[2] == "4" })
        chown(daemon.path, 0, 4)
        // Its folder is not for others where the tests were built.
        let tool = folder.file("dtls")
        try FileManager.default.copyItem(atPath: ToolRun.binary, toPath: tool)
        let program = try Program(
            ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", tool, "status", "--socket", daemon.path],
            in: folder)
        #expect(try await program.ended() == .exited(3))
        #expect(program.errors.contains("may not open \(daemon.path)"))
        #expect(program.errors.contains("members of the group \(group[0])"))
    }

    @Test func `a path that no socket can have is said to be too long`() async throws {
        let result = try await ToolRun.run(
            "status", socket: "/" + String(repeating: "x", count: 200), in: folder)
        #expect(result.status == 3)
        #expect(result.errors.contains("too long"))
    }

    @Test func `a connection that is closed without an answer, and an answer that is none, are failures`() async throws
    {
        let closed = try await run("status") { _ in .end }.result
        #expect(closed.status == 3)
        #expect(closed.errors.contains("closed the connection"))
        let garbage = try await run("status") { _ in .line("hello") }.result
        #expect(garbage.status == 1)
        #expect(garbage.errors.contains("cannot be read"))
        let foreign = try await run("status") { _ in .line(#"{"ok":true,"result":{"version":"0.1.0"}}"#) }.result
        #expect(foreign.status == 1)
        #expect(foreign.errors.contains(#"'pid' is missing"#))
    }

    @Test func `a reload that is refused prints every problem, without control characters`() async throws {
        let (result, commands) = try await run("reload") { _ in
            .error(
                ControlError(
                    .refused, "The configuration is refused.", problems: ["a.toml:1: one", "a.toml:2: \u{1b}[2Jtwo"]))
        }
        #expect(result.status == 1)
        #expect(
            result.errors == "dtls: The configuration is refused.\n  a.toml:1: one\n  a.toml:2: \\u{1b}[2Jtwo\n")
        #expect(commands == [.reload])
    }

    @Test func `a reload that succeeds says so, with warnings`() async throws {
        let result = try await run("reload") { _ in .result(ReloadResult(file: "/etc/a.toml", warnings: ["w"])) }.result
        #expect(result.status == 0)
        #expect(result.output == "/etc/a.toml is in use.\n")
        #expect(result.errors == "warning: w\n")
    }

    @Test func `connections are asked for as the options say`() async throws {
        let (result, commands) = try await run(
            "connections", "--service", "coap", "--prefix", "192.0.2.0/24", "--identity", "sensor-7", "--state",
            "parked", "--sort", "traffic", "--reverse", "--limit", "1"
        ) { _ in .result(Samples.page([Samples.connection(1)], next: "c1")) }
        var query = ConnectionsQuery()
        query.filter = ConnectionFilter(
            service: "coap", prefix: "192.0.2.0/24", identity: "sensor-7", state: .parked)
        query.sort = .traffic
        query.order = .ascending
        query.limit = 1
        #expect(commands == [.connections(query)])
        #expect(result.status == 0)
        #expect(result.output.split(separator: "\n").count == 2)
        #expect(result.errors == "1 of 1,234 connections; --cursor c1 for what follows, or --all.\n")
    }

    @Test func `all connections are fetched page by page`() async throws {
        let (result, commands) = try await run("connections", "--all") { command in
            guard case .connections(let query) = command else { return .end }
            return switch query.cursor {
            case nil: .result(Samples.page([Samples.connection(1)], next: "c1"))
            case "c1": .result(Samples.page([Samples.connection(2)], next: "c2"))
            default: .result(Samples.page([Samples.connection(3)]))
            }
        }
        #expect(commands.count == 3)
        #expect(result.output.split(separator: "\n").count == 4)
        #expect(result.errors == "")
    }

    @Test func `a list without connections says whether there are none or none matches`() async throws {
        let none = ConnectionsResult(matched: 0, total: 1_300, connections: [], nextCursor: nil)
        let filtered = try await run("connections", "--service", "coap") { _ in .result(none) }.result
        #expect(filtered.status == 0)
        #expect(filtered.output == "")
        #expect(filtered.errors == "None of 1,300 connections matches.\n")
        let all = try await run("connections") { _ in .result(none) }.result
        #expect(all.errors == "There are no connections.\n")
    }

    @Test func `an unknown connection is the daemon's refusal`() async throws {
        let (result, commands) = try await run("connection", "00000000000000ff") { _ in
            .error(ControlError(.unknownConnection, "There is no connection 00000000000000ff."))
        }
        #expect(result.status == 1)
        #expect(result.errors == "dtls: There is no connection 00000000000000ff.\n")
        #expect(commands == [.connection("00000000000000ff")])
    }

    @Test func `close asks nobody where nobody is at a terminal`() async throws {
        let (result, commands) = try await run("close", "--service", "coap", "--prefix", "2001:db8::/32") { _ in
            .result(CloseResult(count: 12))
        }
        #expect(result.output == "12 connections are being closed.\n")
        #expect(commands == [.close(.matching(ConnectionFilter(service: "coap", prefix: "2001:db8::/32")))])
    }

    @Test func `drain, upgrade, log level and trace say what has been done`() async throws {
        let drain = try await run("drain") { _ in .result(DrainResult(workers: [1, 0, 2])) }
        #expect(drain.result.output == "Workers 0, 1 and 2 are being replaced.\n")
        #expect(drain.commands == [.drain(worker: nil)])
        let one = try await run("drain", "--worker", "1") { _ in .result(DrainResult(workers: [1])) }
        #expect(one.result.output == "Worker 1 is being replaced.\n")
        #expect(one.commands == [.drain(worker: 1)])
        let upgrade = try await run("upgrade") { _ in .result(UpgradeResult(pid: 77)) }
        #expect(upgrade.result.output == "Process 77 serves now, with all connections.\n")
        let level = try await run("log-level", "debug", "--for", "10m") { _ in
            .result(LogLevelResult(level: "debug", untilAt: "2026-11-28T10:00:00Z"))
        }
        #expect(level.result.output == "The log level is debug until 2026-11-28T10:00:00Z.\n")
        #expect(level.commands == [.logLevel(LogLevelChange(level: .debug, seconds: 600))])
        let reset = try await run("log-level", "--reset") { _ in .result(LogLevelResult(level: "info", untilAt: nil)) }
        #expect(reset.result.output == "The log level is info, as the configuration has it.\n")
        #expect(reset.commands == [.logLevel(LogLevelChange(level: .info, seconds: 0))])
        let trace = try await run("trace", "192.0.2.7", "--for", "1h") { _ in
            .result(TraceResult(traces: [TraceStatus(address: "192.0.2.7", untilAt: "2026-11-28T10:00:00Z")]))
        }
        #expect(trace.result.output == "192.0.2.7 is traced until 2026-11-28T10:00:00Z.\n")
        #expect(trace.result.errors.contains("journalctl"))
        #expect(trace.commands == [.trace(.begin(address: "192.0.2.7", seconds: 3_600))])
        let off = try await run("trace", "--off") { _ in .result(TraceResult(traces: [])) }
        #expect(off.result.output == "No client is traced.\n")
        #expect(off.commands == [.trace(.end)])
    }

    @Test func `top prints one picture where there is no terminal`() async throws {
        let (result, commands) = try await run("top", "--interval", "0.5") { command in
            if case .connections = command { return .result(Samples.page([Samples.connection(1)])) }
            return .result(Samples.status())
        }
        #expect(result.status == 0)
        #expect(result.output.contains("BUSIEST"))
        #expect(!result.output.contains("\u{1b}"))
        #expect(commands.filter { $0 == .status }.count == 2)
    }

    @Test(arguments: [
        ["close"], ["close", "--all", "--service", "coap"], ["close", "00000000000000ff", "--all"],
        ["log-level", "loud"], ["log-level", "debug", "--reset"], ["log-level", "debug", "--for", "2d"],
        ["trace", "192.0.2.7", "--off"], ["connections", "--limit", "0"], ["connections", "--state", "gone"],
        ["top", "--interval", "0.1"], ["connection"], ["statu"],
    ])
    func `a command line that makes no sense is refused without asking the daemon`(arguments: [String]) {
        do {
            let command = try DTLSTool.parseAsRoot(arguments)
            Issue.record("\(arguments) was understood as \(command)")
        } catch {
            #expect(DTLSTool.exitCode(for: error) == .validationFailure)
        }
    }

    @Test func `the socket is that of the option, else of the environment, else the one of the package`() throws {
        let given = try #require(try DTLSTool.parseAsRoot(["status", "--socket", "/tmp/x"]) as? StatusCommand)
        #expect(given.control.path == "/tmp/x")
        let other = try #require(try DTLSTool.parseAsRoot(["status"]) as? StatusCommand)
        if ProcessInfo.processInfo.environment["DTLSD_CONTROL"] == nil {
            #expect(other.control.path == "/run/dtlsd/control.sock")
        }
    }
}
