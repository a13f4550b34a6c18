import DTLSKit
import TestSupport
import Testing

/// What belongs to one thread and is used on another.
@Suite struct ThreadTests {
    let folder: TestFolder
    /// Keeps the folder.
    private let authority: TestAuthority

    init() async throws {
        authority = try await TestAuthority()
        folder = authority.folder
        let identity = try await authority.issue("server")
        try folder.write(identity.certificate, to: "cert.pem")
        try folder.write(identity.key, to: "cert.key")
    }

    private func run(_ call: String) async throws -> (ending: Program.Ending?, output: String, errors: String) {
        // A crash is what is expected: no trace of it is of any use, and it takes seconds. What an ended thread has
        // left open is not freed either.
        let program = try Program(
            [
                "env", "-C", folder.path, "SWIFT_BACKTRACE=enable=no", "ASAN_OPTIONS=detect_leaks=0",
                Executables.path("DTLSKitThreads"), call,
            ],
            in: folder)
        let ending = try await program.ended()
        return (ending, program.output, program.errors)
    }

    @Test func `every call on a wrong thread ends the process and says which call and whose thread`() async throws {
        let list = try await run("list")
        let calls = list.output.split(separator: "\n").map(String.init)
        try #require(calls.count == 74, "\(list.output)\(list.errors)")
        for call in calls {
            let (ending, output, errors) = try await run(call)
            let name = call.prefix { $0 != "(" }
            guard case .killed = ending else {
                Issue.record("\(call): \(String(describing: ending)) \(output) \(errors)")
                continue
            }
            #expect(!output.contains("survived"), "\(call)")
            #expect(errors.contains("\(name)") && errors.contains(" was called on thread "), "\(call): \(errors)")
            #expect(errors.contains("but it belongs to thread ") && errors.contains("Do it on that thread"))
        }
    }

    @Test func `the last reference to an open server is not dropped on another thread in silence`() async throws {
        let (ending, output, errors) = try await run("deinit")
        guard case .killed = ending else {
            Issue.record("\(String(describing: ending)) \(output) \(errors)")
            return
        }
        #expect(errors.contains("the last reference to an open DtlsServer was dropped on thread "), "\(errors)")
    }

    @Test func `what a thread that has ended leaves behind can be looked at and closed`() async throws {
        let (ending, output, errors) = try await run("safe")
        #expect(ending == .exited(0), "\(errors)")
        #expect(output.contains("survived"), "\(output)")
    }
}
