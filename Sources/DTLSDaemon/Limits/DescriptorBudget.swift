import Primitives

/// How many descriptors each process of the daemon may open (RLIMIT_NOFILE), and what they are needed for.
struct DescriptorBudget {
    /// The limit of each process.
    let limit: Int

    /// Descriptors of a worker for everything but connections: the channel, epoll, standard streams, the journal, log
    /// files, a snapshot.
    private static let reservedOfWorker = 32
    /// The part of the reserved descriptors that no incoming connection may take, so that a configuration always
    /// arrives. The number of connections does not tell how many descriptors are free: connections of an earlier
    /// configuration may have more each, programs outlive their connections, and logs have files. But a new descriptor
    /// has the lowest number that is free (open(2)), so its own number tells.
    private static let spareOfWorker = 16
    /// Descriptors of the main process for everything but listeners and workers: standard streams, epoll, signals,
    /// snapshots and ticket keys, the loader's channel, the journal, and the socket of a connection that is handed
    /// over.
    private static let reservedOfMain = 16
    /// A worker's channel, and what it is sent in a reload.
    private static let eachWorker = 2

    /// The connections that a worker has descriptors for, whatever table they belong to; 0 where it has none.
    func connections(of configuration: Configuration) -> Int {
        max(0, (limit - Self.reservedOfWorker) / Self.each(configuration))
    }

    /// Whether an incoming connection may take a descriptor of this number in a worker.
    func allows(connection number: Int32) -> Bool { Int(number) < limit - Self.spareOfWorker }

    /// Why the daemon could serve nobody with a configuration; `nil` when it can serve somebody.
    /// - Parameter listeners: the sockets that it has to open, or has been passed.
    func shortage(for configuration: Configuration, listeners: Int) -> String? {
        let worker = Self.reservedOfWorker + Self.each(configuration)
        let main = Self.reservedOfMain + listeners + Self.eachWorker * configuration.workers
        guard limit < max(worker, main) else { return nil }
        return
            "each process may open \(counted(limit, "file")) (RLIMIT_NOFILE), with which no client could be served; expected at"
            + " least \(max(worker, main)): the main process needs \(main), and a worker \(worker) for its first"
            + " connection. Set LimitNOFILE= in the unit, or ulimit -n"
    }

    /// The most descriptors that a connection of any table needs.
    private static func each(_ configuration: Configuration) -> Int {
        let services = configuration.services.map(\.handler.descriptorsPerConnection)
        // The local sender's socket, and the one to the server.
        return (services + configuration.clients.map { _ in 2 }).max() ?? 1
    }
}

extension HandlerConfiguration {
    /// How many descriptors one connection needs, the one to the client included.
    fileprivate var descriptorsPerConnection: Int {
        switch self {
        case .echo, .log: 1
        case .forward: 2
        case .exec: 3
        }
    }
}
