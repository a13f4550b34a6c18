import Glibc

/// The daemon's entries, by what a process was started for.
public enum Daemon {
    /// Runs the role that these arguments name, when it is one of the daemon's own processes.
    /// - Returns: its exit status, or `nil` for the main process.
    public static func runRole(_ arguments: [String]) -> Int32? {
        guard let role = Role(arguments: arguments) else { return nil }
        do {
            switch role {
            case .worker(let number): try Worker.run(number: number)
            case .loader(let file): try Loader.run(file: file)
            }
            return 0
        } catch {
            report("\(error)")
            return Acceptor.systemStatus
        }
    }

    /// Serves until it is told to stop.
    /// - Returns: the exit status.
    public static func serve(configurationFile: String) -> Int32 {
        do {
            return try Acceptor.run(configurationFile: configurationFile)
        } catch {
            report("\(error)")
            return Acceptor.systemStatus
        }
    }

    /// Reads the configuration and all that it names, and says what is wrong with it.
    /// - Returns: 0, or 78 (EX_CONFIG).
    public static func check(configurationFile: String) -> Int32 {
        do throws(ConfigurationProblems) {
            let configuration = try ConfigurationReader.read(file: configurationFile)
            let names = configuration.services.map(\.name).joined(separator: ", ")
            print("\(configurationFile): good; services: \(names)")
            return 0
        } catch {
            report(error.description)
            return Acceptor.configurationStatus
        }
    }

    private static func report(_ text: String) {
        let line = text + "\n"
        _ = Array(line.utf8).withUnsafeBytes { write(STDERR_FILENO, $0.baseAddress, $0.count) }
    }
}
