import TestSupport

/// The tool `dtls`, as an operator runs it.
enum Tool {
    struct Outcome {
        var status: Program.Ending
        var output: String
        var errors: String
    }

    /// Starts it with an open standard input.
    static func start(_ arguments: [String], in folder: TestFolder, environment: [String: String] = [:]) throws
        -> Program
    {
        let variables = environment.isEmpty ? [] : ["env"] + environment.map { "\($0.key)=\($0.value)" }
        return try Program(variables + [Daemon.tool] + arguments, in: folder)
    }

    /// Runs it to its end.
    static func run(
        _ arguments: [String], input: String = "", in folder: TestFolder, environment: [String: String] = [:]
    ) async throws -> Outcome {
        let program = try start(arguments, in: folder, environment: environment)
        program.send(input)
        program.closeInput()
        let status = try await program.ended()
        return Outcome(status: status, output: program.output, errors: program.errors)
    }
}
