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
        Privileges.hideMemory()
        do {
            switch role {
            case .worker(let number): try Worker.run(number: number)
            case .successor(let file): return try Acceptor.succeed(configurationFile: file)
            case .loader(let file, let purpose): try Loader.run(file: file, purpose)
            case .stapleLoader(let file): try Loader.runForStaples(file: file)
            case .resolver: try Resolver.run()
            case .checker: try Checker.run()
            case .keys: try KeyProcess.run()
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
        Privileges.hideMemory()
        do {
            return try Acceptor.run(configurationFile: configurationFile)
        } catch {
            report("\(error)")
            return ExitStatus.system
        }
    }

    /// Reads the configuration and everything that it names, looks its host names up, and prints what is wrong.
    /// - Parameter isStrict: whether a warning is an error.
    /// - Returns: the exit status: 0, or 78 (EX_CONFIG).
    public static func check(configurationFile: String, isStrict: Bool = false) -> Int32 {
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
            guard case .loaded(var configuration, _) = result else {
                for problem in result?.problems ?? [] { report(problem) }
                return ExitStatus.configuration
            }
            configuration.warnings += try unresolvedNames(of: configuration, loop)
            return printOutcome(configuration, of: configurationFile, isStrict)
        } catch {
            report("\(error)")
            return ExitStatus.system
        }
    }

    /// Looks host names up by the same process as the daemon does.
    private static func unresolvedNames(
        of configuration: Configuration, _ loop: EventLoop
    ) throws -> [ConfigurationProblem] {
        guard !configuration.names.isEmpty else { return [] }
        let names = NameResolver(
            memory: FileDescriptor(owning: -1), environment: ChildProcess.environment(), loop: loop)
        var reason: String?
        names.onEnded = { ended, _ in reason = ended }
        var hasEnded = false
        // c-ares gives a name up after 14 s where no name server answers.
        names.prepare(configuration, patience: .seconds(15)) {
            hasEnded = true
            loop.stop()
        }
        if !hasEnded { try loop.run() }
        names.stop()
        return configuration.names.filter { names.table.addresses(of: $0.host).isEmpty }.map {
            $0.problem(names.table.failure(of: $0.host) ?? reason ?? "no name server has answered")
        }
    }

    private static func printOutcome(_ configuration: Configuration, of file: String, _ isStrict: Bool) -> Int32 {
        for warning in configuration.warnings { report(isStrict ? "\(warning)" : "warning: \(warning)") }
        if isStrict, !configuration.warnings.isEmpty { return ExitStatus.configuration }
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
