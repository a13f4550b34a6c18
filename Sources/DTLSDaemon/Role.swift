import Glibc
import LinuxSystem

/// The part that a process plays in the daemon. Its argument 0 names it, which is what ps(1) shows, too.
enum Role: Equatable {
    /// Serves connections.
    case worker(number: Int)
    /// Takes the place of the main process that has started it, with this configuration file.
    case successor(file: String)
    /// Reads the configuration and everything that it names, and ends.
    case loader(file: String, purpose: Purpose)
    /// Reads the OCSP responses of the active configuration, and ends. The configuration came from `file`.
    case stapleLoader(file: String)
    /// Asks name servers for the addresses of host names.
    case resolver
    /// Sends datagrams to backends, to see whether they answer.
    case checker
    /// Holds the private keys, and signs with them.
    case keys

    /// Why the configuration is read.
    enum Purpose: String {
        case serving
        /// For `dtlsd --check`: nothing is changed, and no file is made.
        case checking
    }

    private static let workerName = "dtlsd: worker"
    private static let successorName = "dtlsd: main process"
    private static let loaderName = "dtlsd: loader"
    private static let resolverName = "dtlsd: resolver"
    private static let checkerName = "dtlsd: checker"
    private static let keysName = "dtlsd: keys"
    private static let stapleLoaderName = "dtlsd: loader of OCSP responses"

    /// The arguments that a process in this role is started with.
    var arguments: [String] {
        switch self {
        case .worker(let number): ["\(Self.workerName) \(number)"]
        case .successor(let file): [Self.successorName, file]
        case .loader(let file, let purpose): [Self.loaderName, file, purpose.rawValue]
        case .stapleLoader(let file): [Self.stapleLoaderName, file]
        case .resolver: [Self.resolverName]
        case .checker: [Self.checkerName]
        case .keys: [Self.keysName]
        }
    }

    /// `nil` for a main process that the daemon has not started itself.
    init?(arguments: [String]) {
        guard let name = arguments.first else { return nil }
        if name.hasPrefix(Self.workerName + " "), let number = Int(name.dropFirst(Self.workerName.count + 1)) {
            self = .worker(number: number)
        } else if name == Self.successorName, arguments.count == 2 {
            self = .successor(file: arguments[1])
        } else if name == Self.loaderName, arguments.count == 3, let purpose = Purpose(rawValue: arguments[2]) {
            self = .loader(file: arguments[1], purpose: purpose)
        } else if name == Self.stapleLoaderName, arguments.count == 2 {
            self = .stapleLoader(file: arguments[1])
        } else if name == Self.resolverName, arguments.count == 1 {
            self = .resolver
        } else if name == Self.checkerName, arguments.count == 1 {
            self = .checker
        } else if name == Self.keysName, arguments.count == 1 {
            self = .keys
        } else {
            return nil
        }
    }
}
