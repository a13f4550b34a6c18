/// The daemon's exit statuses (sysexits.h). The unit knows them.
enum ExitStatus {
    static let system: Int32 = 71
    static let temporary: Int32 = 75
    static let configuration: Int32 = 78
}

/// Why the daemon cannot start, for the log.
enum StartupFailure: String {
    case configuration = "the configuration cannot be used"
    case configurationForNow = "the configuration cannot be used for now"
    case sockets = "the sockets cannot be opened"
    case system = "the system does not give what it takes"

    var exitStatus: Int32 {
        switch self {
        case .configuration: ExitStatus.configuration
        case .configurationForNow: ExitStatus.temporary
        case .sockets, .system: ExitStatus.system
        }
    }
}
