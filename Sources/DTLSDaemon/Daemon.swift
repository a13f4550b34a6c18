import Glibc
import LinuxSystem

/// The daemon's entries, by what a process was started for.
public enum Daemon {
    /// Runs the role that these arguments name, when it is one of the daemon's own processes.
    /// - Returns: its exit status, or `nil` for the main process.
    public static func runRole(_ arguments: [String]) -> Int32? {
        guard let role = Role(arguments: arguments) else { return nil }
        do {
            switch role {
            case .worker(let number): try Worker.run(number: number)
            case .loader(let file, let purpose): try Loader.run(file: file, purpose)
            case .stapleLoader(let file): try Loader.runForStaples(file: file)
            }
            return 0
        } catch {
            report("\(error)")
            return ExitStatus.system
        }
    }

    /// Serves until it is told to stop.
    /// - Returns: the exit status.
    public static func serve(configurationFile: String) -> Int32 {
        do {
            return try Acceptor.run(configurationFile: configurationFile)
        } catch {
            report("\(error)")
            return ExitStatus.system
        }
    }

    /// Reads the configuration and all that it names, and says what is wrong with it.
    /// - Returns: 0, or 78 (EX_CONFIG).
    public static func check(configurationFile: String) -> Int32 {
        do {
            var result: LoaderHandle.Result?
            let loop = try EventLoop()
            // In a process of its own, like a reload: a file that kills the parser is a problem to be told, too.
            let loading = try LoaderHandle(
                file: configurationFile, purpose: .checking, environment: ChildProcess.environment(), loop: loop
            ) {
                result = $0
                loop.stop()
            }
            try withExtendedLifetime(loading) { try loop.run() }
            return tell(result, of: configurationFile)
        } catch {
            report("\(error)")
            return ExitStatus.system
        }
    }

    private static func tell(_ result: LoaderHandle.Result?, of file: String) -> Int32 {
        guard case .loaded(let configuration, _) = result else {
            for problem in result?.problems ?? [] { report(problem) }
            return ExitStatus.configuration
        }
        for warning in configuration.warnings { report("warning: \(warning)") }
        let lists = [("services", configuration.services.map(\.name)), ("clients", configuration.clients.map(\.name))]
        let found = lists.filter { !$0.1.isEmpty }.map { "; \($0.0): \($0.1.joined(separator: ", "))" }
        print("\(file): good" + found.joined())
        return 0
    }

    private static func report(_ text: String) {
        let line = text + "\n"
        _ = Array(line.utf8).withUnsafeBytes { write(STDERR_FILENO, $0.baseAddress, $0.count) }
    }
}
