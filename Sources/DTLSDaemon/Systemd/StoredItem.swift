import CLinux
import Glibc
import LinuxSystem
import Primitives

/// Something that the service manager keeps for the daemon's next start, by the name that it has there (FDNAME= of
/// sd_notify(3)).
enum StoredItem: Hashable {
    /// The memory file with the generated keys of session tickets.
    case ticketKeys
    /// The memory file with the sessions of clients without tickets.
    case sessions
    /// The memory file with the cookie secret of configurations that have none.
    case cookieSecret
    /// The memory file with the key that connection IDs are made with by configurations that have none.
    case connectionIDKey
    /// The memory file with the addresses of host names.
    case names
    /// The slot file with the connections of the table of this number, which is mostly that of a worker.
    case connections(table: Int)
    /// A listening socket, by what tells it from others of this daemon: printable ASCII without a colon. See
    /// ``listener(on:_:)``.
    case listener(String)
    /// The listening socket of the control socket at this path. A main process passes it to its successor, and the service
    /// manager never has it.
    case control(path: String)

    private static let ticketKeysName = "dtlsd-ticket-keys"
    private static let sessionsName = "dtlsd-sessions"
    private static let cookieSecretName = "dtlsd-cookie-secret"
    private static let connectionIDKeyName = "dtlsd-connection-id-key"
    private static let namesName = "dtlsd-names"
    private static let connectionsPrefix = "dtlsd-connections-"
    private static let listenerPrefix = "dtlsd-listener-"
    private static let controlPrefix = "dtlsd-control-"

    /// Consists of printable ASCII without a colon, 255 bytes at most, as systemd requires (fdname_is_valid).
    var name: String {
        switch self {
        case .ticketKeys: Self.ticketKeysName
        case .sessions: Self.sessionsName
        case .cookieSecret: Self.cookieSecretName
        case .connectionIDKey: Self.connectionIDKeyName
        case .names: Self.namesName
        case .connections(let table): Self.connectionsPrefix + "\(table)"
        case .listener(let text): Self.listenerPrefix + text
        case .control(let path): Self.controlPrefix + path
        }
    }

    /// The socket of a listener on this address. One that is stored with the same options can be gone on with as it is.
    static func listener(on address: SocketAddress, _ options: SocketOptions) -> StoredItem {
        let hash = FNV1a.hash("\(options)".utf8)
        return .listener(String("\(address)/\(String(hash, radix: 16))".map { $0 == ":" ? ";" : $0 }))
    }

    /// - Parameter isSocket: whether the descriptor is one of a socket. A socket unit chooses names freely, but it
    ///   passes sockets, so all but a listener are told from those by their kind.
    /// - Returns: `nil` for what the daemon has not stored.
    init?(name: String, isSocket: Bool) {
        if isSocket {
            if name.hasPrefix(Self.controlPrefix + "/"), !name.hasSuffix(".socket") {
                self = .control(path: String(name.dropFirst(Self.controlPrefix.count)))
                return
            }
            // The name of a socket unit is the default for FileDescriptorName=.
            guard name.hasPrefix(Self.listenerPrefix), !name.hasSuffix(".socket") else { return nil }
            self = .listener(String(name.dropFirst(Self.listenerPrefix.count)))
        } else if name == Self.ticketKeysName {
            self = .ticketKeys
        } else if name == Self.sessionsName {
            self = .sessions
        } else if name == Self.cookieSecretName {
            self = .cookieSecret
        } else if name == Self.connectionIDKeyName {
            self = .connectionIDKey
        } else if name == Self.namesName {
            self = .names
        } else if name.hasPrefix(Self.connectionsPrefix),
            let table = Int(name.dropFirst(Self.connectionsPrefix.count)),
            table >= 0
        {
            self = .connections(table: table)
        } else {
            return nil
        }
    }
}

/// A descriptor that another process has passed to this one when it started: the service manager, or the main process
/// that this one succeeds. It is closed with this object, unless it was taken.
final class PassedDescriptor {
    let name: String
    var descriptor: FileDescriptor

    init(_ name: String, _ descriptor: consuming FileDescriptor) {
        self.name = name
        self.descriptor = descriptor
    }

    /// What it is, if the daemon has stored it.
    var storedItem: StoredItem? {
        var status = stat()
        guard fstat(descriptor.rawValue, &status) == 0 else { return nil }
        switch status.st_mode & S_IFMT {
        case S_IFREG: return StoredItem(name: name, isSocket: false)
        case S_IFSOCK: return StoredItem(name: name, isSocket: true)
        default: return nil
        }
    }
}

/// What the service manager keeps for the daemon, brought in line with what it is to keep. A value without I/O.
struct DescriptorStore {
    enum Step: Equatable {
        /// Send the manager this descriptor (FDSTORE=1).
        case store(StoredItem, descriptor: Int32)
        /// Have the manager close what it has by this name (FDSTOREREMOVE=1).
        case remove(StoredItem)
    }

    /// What the manager keeps for this process.
    private var kept: Set<StoredItem> = []
    /// What the manager keeps unless the process before this one could not send it. Storing it again changes nothing,
    /// since the manager knows the same open file again (service_add_fd_store).
    private var doubtful: Set<StoredItem> = []
    /// What the manager keeps by names that are to become free.
    private var discarded: Set<StoredItem> = []

    /// - Parameters:
    ///   - passed: what was passed on to this process.
    ///   - isCertain: whether it was the manager that has passed it, so that it has it.
    init(passed: Set<StoredItem>, isCertain: Bool) {
        if isCertain { kept = passed } else { doubtful = passed }
    }

    /// The manager keeps something useless by this name, which is to go.
    mutating func discard(_ item: StoredItem) {
        if kept.remove(item) != nil || doubtful.remove(item) != nil { discarded.insert(item) }
    }

    /// The manager may keep something by this name.
    mutating func doubt(_ item: StoredItem) {
        if !kept.contains(item) { doubtful.insert(item) }
    }

    /// What is to be sent, in this order, so that the manager keeps exactly these descriptors.
    func steps(toKeep wanted: [StoredItem: Int32]) -> [Step] {
        let removed = kept.union(doubtful).filter { wanted[$0] == nil }.union(discarded)
        let stored = wanted.filter { !kept.contains($0.key) }
        return removed.sorted { $0.name < $1.name }.map { .remove($0) }
            + stored.sorted { $0.key.name < $1.key.name }.map { .store($0.key, descriptor: $0.value) }
    }

    /// Notes that a step was sent.
    mutating func sent(_ step: Step) {
        switch step {
        case .store(let item, _):
            kept.insert(item)
            doubtful.remove(item)
        case .remove(let item):
            kept.remove(item)
            doubtful.remove(item)
            discarded.remove(item)
        }
    }
}
