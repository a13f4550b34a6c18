import Glibc
import LinuxSystem

/// Which part of the daemon a process is: told by its argument 0, which is also what ps(1) shows.
enum Role: Equatable {
    /// Serves connections.
    case worker(number: Int)
    /// Reads the configuration and all that it names, and ends.
    case loader(file: String, purpose: Purpose)
    /// Reads the OCSP responses of a configuration in force, and ends; `file` is the one that it came from.
    case stapleLoader(file: String)

    /// What the configuration is read for.
    enum Purpose: String {
        case serving
        /// Nothing is changed: no file is made.
        case checking
    }

    private static let workerName = "dtlsd: worker"
    private static let loaderName = "dtlsd: loader"
    private static let stapleLoaderName = "dtlsd: loader of OCSP responses"

    /// What a process in this role is started with.
    var arguments: [String] {
        switch self {
        case .worker(let number): ["\(Self.workerName) \(number)"]
        case .loader(let file, let purpose): [Self.loaderName, file, purpose.rawValue]
        case .stapleLoader(let file): [Self.stapleLoaderName, file]
        }
    }

    /// `nil` for the main process.
    init?(arguments: [String]) {
        guard let name = arguments.first else { return nil }
        if name.hasPrefix(Self.workerName + " "), let number = Int(name.dropFirst(Self.workerName.count + 1)) {
            self = .worker(number: number)
        } else if name == Self.loaderName, arguments.count == 3, let purpose = Purpose(rawValue: arguments[2]) {
            self = .loader(file: arguments[1], purpose: purpose)
        } else if name == Self.stapleLoaderName, arguments.count == 2 {
            self = .stapleLoader(file: arguments[1])
        } else {
            return nil
        }
    }
}
