import CLinux
import CSystemd
import Glibc
import LinuxSystem
import Primitives

/// The service manager (systemd) that has started the daemon, if there is one: notifications, the watchdog, inherited
/// sockets, the descriptor store.
///
/// libsystemd reads the environment. Its sd_notify blocks while the queue of systemd's socket is full, so notifications
/// are sent by a ``UnixDatagramSender``, which does not block.
struct ServiceManager: ~Copyable {
    /// A notification of sd_notify(3).
    enum Notification: Sendable, Equatable {
        /// Start-up or a reload has finished.
        case ready
        /// A reload has begun; ``ready`` ends it, whether it has succeeded or failed.
        case reloading
        case stopping
        /// How the last reload has ended: an error number, or 0. The unit's ExecReload= waits for it.
        case result(errno: Int32)
        /// One line for `systemctl status`.
        case status(String)
        /// The event loop is alive.
        case watchdog
        /// Another process of the unit is the main process from now on.
        case mainProcess(pid_t)
    }

    /// How often ``Notification/watchdog`` is due; half of what the unit's WatchdogSec= allows. `nil`
    /// when there is no watchdog.
    let watchdogInterval: Duration?
    private let sender: UnixDatagramSender?
    /// NOTIFY_SOCKET and WATCHDOG_USEC, for a process that is to be the main process after this one.
    let variables: [String: String]
    /// The sockets of socket units.
    private var inherited: [PassedDescriptor]
    /// What an earlier run of the daemon has stored.
    private var stored: [StoredItem: PassedDescriptor]
    private var controlSocket: (passed: PassedDescriptor, path: String)?
    private var store: DescriptorStore
    /// Whether notifications come from the unit's main process: the manager ignores those of others.
    private var isMain: Bool

    /// Reads NOTIFY_SOCKET, LISTEN_* and WATCHDOG_* from the environment, and removes them, since they are meant for
    /// this process alone. It is to be called once, at the start of the main process, before another thread exists.
    /// - Parameter passed: what the main process has passed that this one succeeds; `nil`: the manager has started this
    ///   process, and passes sockets and what it has stored.
    /// - Throws: when the value of a variable is not as documented in sd_notify(3), sd_listen_fds(3) or
    ///   sd_watchdog_enabled(3).
    init(passed: [PassedDescriptor]? = nil) throws(SystemError) {
        var variables: [String: String] = [:]
        for name in ["NOTIFY_SOCKET", "WATCHDOG_USEC"] {
            if let value = getenv(name) { variables[name] = String(cString: value) }
        }
        unsetenv("NOTIFY_SOCKET")
        var microseconds: UInt64 = 0
        let watchdog = sd_watchdog_enabled(1, &microseconds)
        guard watchdog >= 0 else { throw SystemError("WATCHDOG_USEC", errno: -watchdog) }
        if watchdog == 0 { variables["WATCHDOG_USEC"] = nil }
        var sender: UnixDatagramSender?
        if let address = variables["NOTIFY_SOCKET"], !address.isEmpty { sender = try UnixDatagramSender(to: address) }
        let descriptors = if let passed { passed } else { try Self.passedDescriptors() }
        self.watchdogInterval = watchdog > 0 ? .microseconds(max(1, microseconds / 2)) : nil
        self.sender = sender
        self.variables = variables
        inherited = []
        stored = [:]
        for passed in descriptors {
            switch passed.storedItem {
            case .control(let path): controlSocket = (passed, path)
            case let item?: stored[item] = passed
            case nil: inherited.append(passed)
            }
        }
        store = DescriptorStore(passed: Set(stored.keys), isCertain: passed == nil)
        isMain = passed == nil
    }

    /// Whether a manager listens to notifications.
    var isPresent: Bool { sender != nil }

    /// This process, which has succeeded another one, is the unit's main process from now on. Before, nothing is sent.
    mutating func becomeMain() { isMain = true }

    /// Notifies the manager, without blocking.
    /// - Returns: false when the manager's queue is full, so that the notification was not sent.
    @discardableResult
    func notify(_ notifications: Notification...) -> Bool {
        guard isMain, let sender else { return true }
        let text = notifications.map { Self.text($0) }.joined(separator: "\n")
        return Array(text.utf8).withUnsafeBytes { sender.send($0) } == nil
    }

    /// Takes a descriptor that an earlier run of the daemon has stored; not open when there is none.
    mutating func takeStored(_ item: StoredItem) -> FileDescriptor {
        stored.removeValue(forKey: item)?.descriptor.take() ?? FileDescriptor(owning: -1)
    }

    /// Takes the listening control socket of the process that this one succeeds, with its path; `nil` without one.
    mutating func takeControlSocket() -> (passed: PassedDescriptor, path: String)? {
        defer { controlSocket = nil }
        return controlSocket
    }

    /// Takes the slot files that an earlier run of the daemon has stored, in the order of their tables.
    mutating func takeStoredConnections() -> [PassedDescriptor] {
        let tables = stored.keys.compactMap { if case .connections(let table) = $0 { table } else { nil } }
        return tables.sorted().compactMap { stored.removeValue(forKey: .connections(table: $0)) }
    }

    /// Takes the listening sockets that an earlier run of the daemon has stored.
    mutating func takeStoredListeners() -> [PassedDescriptor] {
        let listeners = stored.filter { if case .listener = $0.key { true } else { false } }
        for item in listeners.keys { stored[item] = nil }
        return Array(listeners.values)
    }

    /// What was stored by this name is of no use: the manager is to close it, before anything else is stored by it.
    mutating func discard(_ item: StoredItem) { store.discard(item) }

    /// The process before this one may have stored something by this name.
    mutating func doubt(_ item: StoredItem) { store.doubt(item) }

    /// Gives the manager copies of these descriptors to keep until the daemon is started again, and has it close all
    /// else that it keeps for the daemon. The unit has to allow so many with FileDescriptorStoreMax=.
    ///
    /// It is to be called again and again, since the manager's queue may be full.
    mutating func keep(_ wanted: [StoredItem: Int32]) {
        guard isMain, let sender else { return }
        for step in store.steps(toKeep: wanted) {
            let error =
                switch step {
                case .store(let item, let descriptor):
                    // With FDPOLL=0 the manager does not drop the descriptor when poll(2) reports an error or a hang-up
                    // for it.
                    Array("FDSTORE=1\nFDNAME=\(item.name)\nFDPOLL=0".utf8).withUnsafeBytes {
                        sender.send($0, descriptor: descriptor)
                    }
                case .remove(let item):
                    Array("FDSTOREREMOVE=1\nFDNAME=\(item.name)".utf8).withUnsafeBytes { sender.send($0) }
                }
            guard error == nil else { return }
            store.sent(step)
        }
    }

    private static func text(_ notification: Notification) -> String {
        switch notification {
        case .ready: return "READY=1"
        case .reloading:
            // Not by timespec, which may be c-ares' to the compiler, by what it has read before.
            return "RELOADING=1\nMONOTONIC_USEC=\(Instant.now().nanoseconds / 1_000)"
        case .stopping: return "STOPPING=1"
        case .result(let errno): return "ERRNO=\(errno)"
        // A newline would begin another assignment.
        case .status(let line): return "STATUS=" + String(line.map { $0.isNewline ? " " : $0 })
        case .watchdog: return "WATCHDOG=1"
        case .mainProcess(let pid): return "MAINPID=\(pid)"
        }
    }
}

/// A bound UDP socket that the service manager has passed to the daemon (systemd.socket(5)). It stays open for the
/// daemon's life, whether a service uses it or not.
final class InheritedSocket {
    /// FileDescriptorName= of the socket unit, or `"unknown"` when it has none.
    let name: String
    let address: SocketAddress
    /// Non-blocking, and closed on exec.
    let descriptor: FileDescriptor
    /// What the socket unit has set, which holds where the configuration says nothing.
    let initialOptions: InitialSocketOptions

    /// - Throws: when the descriptor is not a bound UDP socket. The descriptor is closed then.
    init(name: String, _ descriptor: consuming FileDescriptor) throws(InheritedSocketError) {
        let type = try Self.option(SO_TYPE, of: descriptor, name: name)
        let domain = try Self.option(SO_DOMAIN, of: descriptor, name: name)
        guard type == UDPSocket.socketType else {
            throw InheritedSocketError(name: name, reason: "is not a datagram socket (ListenStream= or the like)")
        }
        guard domain == AF_INET || domain == AF_INET6 else {
            throw InheritedSocketError(name: name, reason: "is not an Internet socket")
        }
        guard let address = Self.boundAddress(descriptor), address.port != 0 else {
            throw InheritedSocketError(name: name, reason: "is not bound to an address")
        }
        do throws(SystemError) { try descriptor.makeNonBlocking() } catch {
            throw InheritedSocketError(name: name, reason: "cannot be made non-blocking (\(error.reason))")
        }
        do throws(SystemError) { initialOptions = try InitialSocketOptions(of: descriptor, address.family) } catch {
            throw InheritedSocketError(name: name, reason: "does not tell its options (\(error))")
        }
        self.name = name
        self.address = address
        self.descriptor = descriptor
    }

    private static func option(
        _ option: Int32, of descriptor: borrowing FileDescriptor, name: String
    ) throws(InheritedSocketError) -> Int32 {
        var value: Int32 = 0
        var length = socklen_t(MemoryLayout<Int32>.size)
        guard getsockopt(descriptor.rawValue, SOL_SOCKET, option, &value, &length) == 0 else {
            throw InheritedSocketError(name: name, reason: "is not a socket (\(String(cString: strerror(errno))))")
        }
        return value
    }

    private static func boundAddress(_ descriptor: borrowing FileDescriptor) -> SocketAddress? {
        var storage = sockaddr_storage()
        var length = socklen_t(MemoryLayout<sockaddr_storage>.size)
        return withUnsafeMutableBytes(of: &storage) { bytes in
            guard let base = bytes.baseAddress else { return nil }
            let result = bytes.withMemoryRebound(to: sockaddr.self) {
                getsockname(descriptor.rawValue, $0.baseAddress, &length)
            }
            return result == 0 ? SocketAddress(base, length: Int(length)) : nil
        }
    }
}

/// An inherited descriptor cannot be used as a listener's socket.
struct InheritedSocketError: Error, CustomStringConvertible, Equatable {
    let name: String
    let reason: String

    var description: String {
        "the socket '\(name)' passed in by systemd \(reason); expected ListenDatagram= with an IPv4 or IPv6 address"
    }
}

extension ServiceManager {
    /// The sockets that were passed to the daemon. A second call returns none.
    /// - Throws: for the first one that is not a bound UDP socket. All of them are closed then.
    mutating func takeSockets() throws(InheritedSocketError) -> [InheritedSocket] {
        let descriptors = inherited
        inherited = []
        return try descriptors.map { inherited throws(InheritedSocketError) in
            try InheritedSocket(name: inherited.name, inherited.descriptor.take())
        }
    }

    /// Reads LISTEN_PID, LISTEN_FDS and LISTEN_FDNAMES. sd_listen_fds sets FD_CLOEXEC.
    private static func passedDescriptors() throws(SystemError) -> [PassedDescriptor] {
        var names: UnsafeMutablePointer<UnsafeMutablePointer<CChar>?>?
        let count = sd_listen_fds_with_names(1, &names)
        guard count >= 0 else { throw SystemError("LISTEN_FDS", errno: -count) }
        defer { free(names) }
        // SD_LISTEN_FDS_START
        return (0..<count).map { index in
            let descriptor = FileDescriptor(owning: 3 + index)
            guard let name = names?[Int(index)] else { return PassedDescriptor("unknown", descriptor) }
            defer { free(name) }
            return PassedDescriptor(String(cString: name), descriptor)
        }
    }
}
