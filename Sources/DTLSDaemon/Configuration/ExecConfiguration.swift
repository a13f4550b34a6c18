import DTLSTransport
import Glibc
import LinuxSystem
import Primitives

/// `[service.NAME.exec]`
struct ExecConfiguration: Codable, Equatable, Sendable {
    /// The program's absolute path, and its arguments.
    var command: [String]
    /// How many of the service's programs one worker has at most, 1 to 10,000.
    var programsPerWorker: Int
    var limits: ForeignProgram.Limits
}

/// The keys of `[service.NAME.exec]`.
enum ExecKey: String, CaseIterable {
    case command
    case programsPerWorker = "programs_per_worker"
    case memory
    case processorTime = "cpu_time"
    case openFiles = "open_files"
}

/// Reads `[service.NAME.exec]`.
enum ExecReader {
    private static let expected =
        "an array of the program's absolute path and its arguments, [\"/usr/bin/PROGRAM\", \"ARGUMENT\"]"

    static func read(_ table: TableReader<ExecKey>) -> ExecConfiguration? {
        table.require(.command, expected)
        let mebibytes = table.integer(.memory, 1...1_048_576, "an integer of MiB")
        let limits = ForeignProgram.Limits(
            memory: mebibytes.map { $0 << 20 },
            processorTime: table.integer(.processorTime, 1...86_400, "an integer of seconds"),
            openFiles: table.integer(.openFiles, 3...524_288) ?? 1_024)
        let programs = table.integer(.programsPerWorker, 1...10_000) ?? 100
        let words = table.strings(.command, expected)
        guard let program = words.first?.text else { return nil }
        check(program, table)
        return ExecConfiguration(command: words.map(\.text), programsPerWorker: programs, limits: limits)
    }

    /// The loader runs as the same user as the workers, so what it may execute they may.
    private static func check(_ program: String, _ table: TableReader<ExecKey>) {
        let found = ReadContext.quoted(program)
        guard program.hasPrefix("/") else {
            return table.report(.command, "expected \(expected), found \(found)")
        }
        var status = stat()
        guard stat(program, &status) == 0 else {
            let reason = String(cString: strerror(errno))
            let hint = program.contains(" ") ? "; expected \(expected)" : "; expected a program that is there"
            return table.report(.command, "cannot find the program \(found): \(reason)\(hint)")
        }
        guard status.st_mode & S_IFMT == S_IFREG else {
            return table.report(.command, "\(found) is not a regular file; expected a program")
        }
        if faccessat(AT_FDCWD, program, X_OK, AT_EACCESS) != 0 {
            table.report(
                .command,
                "this user may not execute \(found) (\(String(cString: strerror(errno)))); expected a program"
                    + " that dtlsd's user may execute: chmod 755")
        }
    }
}
