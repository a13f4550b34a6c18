import CLinux
import Foundation
import TestSupport

/// The tool that was built with these tests, as a process.
enum ToolRun {
    /// $DTLS_BINARY, or the program that was built with these tests.
    static var binary: String {
        if let given = ProcessInfo.processInfo.environment["DTLS_BINARY"] { return given }
        let tests = (try? FileManager.default.destinationOfSymbolicLink(atPath: "/proc/self/exe")) ?? ""
        return URL(fileURLWithPath: tests).deletingLastPathComponent().appendingPathComponent("dtls").path
    }

    struct Result {
        var output: String
        var errors: String
        var status: Int32
    }

    struct Killed: Error {}

    /// Runs the tool to its end.
    static func run(_ arguments: String..., socket: String, in folder: TestFolder) async throws -> Result {
        let program = try Program([binary] + arguments + ["--socket", socket], in: folder)
        program.closeInput()
        guard case .exited(let status) = try await program.ended(within: 60) else { throw Killed() }
        return Result(output: program.output, errors: program.errors, status: status)
    }
}
