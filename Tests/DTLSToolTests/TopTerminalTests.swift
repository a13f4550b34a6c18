import CLinux
import ControlProtocol
import Foundation
import TestSupport
import Testing

@testable import dtls

/// `dtls top` in a terminal.
@Suite struct TopTerminalTests {
    private let folder: TestFolder

    init() throws { folder = try TestFolder() }

    private static let answer: FakeDaemon.Answering = { command in
        if case .connections = command {
            return .result(Samples.page([Samples.connection(1, identity: "\u{1b}]0;owned\u{7}")]))
        }
        return .result(Samples.status())
    }

    private func top(_ daemon: FakeDaemon, columns: UInt16 = 100, rows: UInt16 = 24) throws -> PseudoTerminal {
        try PseudoTerminal(
            [ToolRun.binary, "top", "--interval", "0.5", "--socket", daemon.path], columns: columns, rows: rows)
    }

    private func shows(_ terminal: PseudoTerminal, _ text: String, rows: Int = 24) async throws {
        try await eventually("the screen shows \(text)", details: terminal.output) {
            guard let screen = terminal.screen else { return false }
            return screen.count == rows && screen.contains { $0.contains(text) }
        }
    }

    @Test func `it draws, follows a change of size, obeys keys, and leaves the terminal as it was`() async throws {
        let daemon = try FakeDaemon(in: folder, Self.answer)
        defer { daemon.stop() }
        let terminal = try top(daemon)
        try await shows(terminal, "192.0.2.7:4701")
        #expect(!terminal.isOrdinary)
        #expect(!terminal.output.contains("\u{1b}]0"))
        for line in terminal.screen ?? [] { #expect(StyledLine(line).width <= 100) }
        terminal.resize(columns: 60, rows: 30)
        try await shows(terminal, "dtlsd 0.1.0 serving", rows: 30)
        for line in terminal.screen ?? [] { #expect(StyledLine(line).width <= 60) }
        terminal.type("?")
        try await shows(terminal, "Ctrl-L", rows: 30)
        terminal.type("\u{1b}")
        try await shows(terminal, "SERVICE", rows: 30)
        terminal.type("s")
        try await shows(terminal, "sort: connections", rows: 30)
        terminal.type("q")
        let ending = try await eventualValue("it ends", details: terminal.output) { terminal.ending }
        #expect(ending == .exited(0))
        #expect(terminal.isRestored)
    }

    @Test(arguments: [SIGTERM, SIGINT, SIGHUP, SIGQUIT])
    func `a signal that ends it finds the terminal as it was`(signal: Int32) async throws {
        let daemon = try FakeDaemon(in: folder, Self.answer)
        defer { daemon.stop() }
        let terminal = try top(daemon)
        try await shows(terminal, "SERVICE")
        if signal == SIGINT { terminal.type("\u{3}") } else { kill(terminal.pid, signal) }
        let ending = try await eventualValue("it ends", details: terminal.output) { terminal.ending }
        #expect(ending == .killed(signal))
        #expect(terminal.isRestored)
    }

    @Test func `Ctrl-Z gives the terminal back until the program goes on`() async throws {
        let daemon = try FakeDaemon(in: folder, Self.answer)
        defer { daemon.stop() }
        let terminal = try top(daemon)
        try await shows(terminal, "SERVICE")
        terminal.type("\u{1a}")
        try await eventually("it is stopped", details: terminal.output) { ProcessTable.isStopped(terminal.pid) }
        #expect(terminal.isRestored)
        kill(terminal.pid, SIGCONT)
        try await eventually("it draws again", details: terminal.output) {
            !terminal.isOrdinary && terminal.output.components(separatedBy: "\u{1b}[?1049h").count == 3
        }
        terminal.type("q")
        let ending = try await eventualValue("it ends", details: terminal.output) { terminal.ending }
        #expect(ending == .exited(0))
        #expect(terminal.isRestored)
    }

    @Test func `a daemon that has ended is waited for, and found again`() async throws {
        let daemon = try FakeDaemon(in: folder, Self.answer)
        let terminal = try top(daemon)
        try await shows(terminal, "SERVICE")
        daemon.stop()
        try await shows(terminal, "dtlsd does not answer")
        let next = try FakeDaemon(in: folder, Self.answer)
        defer { next.stop() }
        try await eventually("it has found the next one", details: terminal.output) {
            terminal.screen?.contains { $0.contains("does not answer") } == false
        }
        terminal.type("q")
        #expect(try await eventualValue("it ends") { terminal.ending } == .exited(0))
    }

    @Test func `who may not speak with the daemon is told so without a cleared screen`() async throws {
        let terminal = try PseudoTerminal(
            [ToolRun.binary, "top", "--socket", folder.file("none.sock")], columns: 100, rows: 24)
        let ending = try await eventualValue("it ends", details: terminal.output) { terminal.ending }
        #expect(ending == .exited(3))
        #expect(!terminal.output.contains("\u{1b}"))
    }

    @Test func `on a terminal close asks before it ends several connections`() async throws {
        let daemon = try FakeDaemon(in: folder) { command in
            if case .close = command { .result(CloseResult(count: 1_234)) } else { .result(Samples.page([])) }
        }
        defer { daemon.stop() }
        for (answer, status) in [("n\n", Int32(1)), ("\n", 1), ("y\n", 0)] {
            let terminal = try PseudoTerminal(
                [ToolRun.binary, "close", "--service", "coap", "--socket", daemon.path], columns: 100, rows: 24)
            try await eventually("it asks", details: terminal.output) {
                terminal.output.contains("Close 1,234 connections? [y/N] ")
            }
            terminal.type(answer)
            #expect(try await eventualValue("it ends") { terminal.ending } == .exited(status))
        }
        #expect(daemon.commands.filter { if case .close = $0 { true } else { false } }.count == 1)
    }
}
