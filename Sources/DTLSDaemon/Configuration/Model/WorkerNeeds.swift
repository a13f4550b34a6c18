import DTLSTransport
import LinuxSystem

/// What the workers of a configuration need of the system beyond their clients' sockets, from which follows how narrow the
/// walls around them are (``WorkerWalls``).
struct WorkerNeeds: Equatable, Sendable {
    /// They start programs (handler "exec"), which may do whatever this user may.
    var programs = false
    /// They make UDP sockets: to backends and servers.
    var internetSockets = false
    /// They make Unix datagram sockets: to backends, authorizers, the journal and syslog daemons.
    var unixSockets = false
    /// They bind UDP sockets to ports that take CAP_NET_BIND_SERVICE (`source`).
    var lowPorts = false
    /// The folders that they make and append to log files in.
    var logFolders: Set<String> = []

    init(
        programs: Bool = false, internetSockets: Bool = false, unixSockets: Bool = false,
        logFolders: Set<String> = []
    ) {
        self.programs = programs
        self.internetSockets = internetSockets
        self.unixSockets = unixSockets
        self.logFolders = logFolders
    }

    init(_ configuration: Configuration) {
        internetSockets = !configuration.clients.isEmpty
        lowPorts = configuration.needsLowSourcePorts
        for service in configuration.services {
            if service.authorize != nil { unixSockets = true }
            switch service.handler {
            case .echo: break
            case .exec: programs = true
            case .forward(let forward):
                for (_, backend) in forward.numberedBackends {
                    if case .unix = backend.address { unixSockets = true } else { internetSockets = true }
                }
            case .log(let log):
                switch log.target {
                case .journal, .syslog: unixSockets = true
                case .file(let path): logFolders.insert(Self.folder(of: path))
                }
            }
        }
    }

    /// - Parameter path: an absolute one.
    private static func folder(of path: String) -> String {
        path.lastIndex(of: "/").map { $0 == path.startIndex ? "/" : String(path[..<$0]) } ?? "/"
    }

    /// Whether a worker whose walls were raised for these needs can serve others.
    func cover(_ others: WorkerNeeds) -> Bool {
        guard lowPorts || !others.lowPorts else { return false }
        if programs { return true }
        return !others.programs && (internetSockets || !others.internetSockets)
            && (unixSockets || !others.unixSockets) && logFolders.isSuperset(of: others.logFolders)
    }

    /// What workers that were started for these needs, and workers that were started for others, can all serve.
    func common(with others: WorkerNeeds) -> WorkerNeeds {
        if others.cover(self) { return self }
        if cover(others) { return others }
        var common = WorkerNeeds(
            internetSockets: internetSockets && others.internetSockets,
            unixSockets: unixSockets && others.unixSockets,
            logFolders: logFolders.intersection(others.logFolders))
        common.lowPorts = lowPorts && others.lowPorts
        return common
    }
}
