import Glibc
import LinuxSystem

/// The entry points of the daemon's processes.
public enum Daemon {
    /// The arguments of this process, its name included.
    public static var arguments: [String] { ChildProcess.arguments() }

    /// Runs the role that these arguments name, unless it is the one of the main process.
    /// - Returns: the exit status, or `nil` for the main process.
    public static func runRole(_ arguments: [String]) -> Int32? {
        guard let role = Role(arguments: arguments) else { return nil }
        ChildProcess.setName("dtlsd")
        do {
            switch role {
            case .worker(let number): try Worker.run(number: number)
            case .successor(let file): return try Acceptor.succeed(configurationFile: file)
            case .loader(let file, let purpose): try Loader.run(file: file, purpose)
            case .stapleLoader(let file): try Loader.runForStaples(file: file)
            }
            return 0
        } catch {
            report("\(error)")
            return ExitStatus.system
        }
    }

    /// Runs the main process until the daemon is told to stop.
    /// - Returns: the exit status.
    public static func serve(configurationFile: String) -> Int32 {
        do {
            return try Acceptor.run(configurationFile: configurationFile)
        } catch {
            report("\(error)")
            return ExitStatus.system
        }
    }

    /// Reads the configuration and everything that it names, and prints what is wrong with it.
    /// - Returns: the exit status: 0, or 78 (EX_CONFIG).
    public static func check(configurationFile: String) -> Int32 {
        do {
            var result: LoaderHandle.Result?
            let loop = try EventLoop()
            // The loader is a process of its own, as in a reload: a file that crashes the parser is a problem to
            // report.
            let loader = try LoaderHandle(
                file: configurationFile, purpose: .checking, environment: ChildProcess.environment(), loop: loop
            ) {
                result = $0
                loop.stop()
            }
            try withExtendedLifetime(loader) { try loop.run() }
            return printOutcome(result, of: configurationFile)
        } catch {
            report("\(error)")
            return ExitStatus.system
        }
    }

    private static func printOutcome(_ result: LoaderHandle.Result?, of file: String) -> Int32 {
        guard case .loaded(let configuration, _) = result else {
            for problem in result?.problems ?? [] { report(problem) }
            return ExitStatus.configuration
        }
        for warning in configuration.warnings { report("warning: \(warning)") }
        let lists = [("services", configuration.services.map(\.name)), ("clients", configuration.clients.map(\.name))]
        let found = lists.filter { !$0.1.isEmpty }.map { "; \($0.0): \($0.1.joined(separator: ", "))" }
        print("\(file): valid" + found.joined())
        return 0
    }

    private static func report(_ text: String) {
        let line = text + "\n"
        _ = Array(line.utf8).withUnsafeBytes { write(STDERR_FILENO, $0.baseAddress, $0.count) }
    }
}

/// The daemon's exit statuses (sysexits.h), which its unit knows.
enum ExitStatus {
    /// EX_OSERR
    static let system: Int32 = 71
    /// EX_TEMPFAIL
    static let temporary: Int32 = 75
    /// EX_CONFIG
    static let configuration: Int32 = 78
}
