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
    }

    /// How often ``Notification/watchdog`` is due; half of what the unit's WatchdogSec= allows. `nil`
    /// when there is no watchdog.
    let watchdogInterval: Duration?
    private let sender: UnixDatagramSender?
    private var inherited: [InheritedDescriptor]
    /// The descriptors that the manager has kept for the daemon (FDSTORE=1). Their name tells them from sockets.
    private var stored: [InheritedDescriptor]

    /// Reads NOTIFY_SOCKET, LISTEN_* and WATCHDOG_* from the environment, and removes them, since they are meant for
    /// this process alone. It is to be called once, at the start of the main process, before another thread exists.
    /// - Throws: when the value of a variable is not as documented in sd_notify(3), sd_listen_fds(3) or
    ///   sd_watchdog_enabled(3).
    init() throws(SystemError) {
        let address = getenv("NOTIFY_SOCKET").map { String(cString: $0) }
        unsetenv("NOTIFY_SOCKET")
        var microseconds: UInt64 = 0
        let watchdog = sd_watchdog_enabled(1, &microseconds)
        guard watchdog >= 0 else { throw SystemError("WATCHDOG_USEC", errno: -watchdog) }
        var sender: UnixDatagramSender?
        if let address, !address.isEmpty { sender = try UnixDatagramSender(to: address) }
        let descriptors = try Self.inheritedDescriptors()
        self.watchdogInterval = watchdog > 0 ? .microseconds(max(1, microseconds / 2)) : nil
        self.sender = sender
        stored = descriptors.filter(\.isStoredFile)
        inherited = descriptors.filter { !$0.isStoredFile }
    }

    /// Whether a manager listens to notifications.
    var isPresent: Bool { sender != nil }

    /// Notifies the manager, without blocking.
    /// - Returns: false when the manager's queue is full, so that the notification was not sent.
    @discardableResult
    func notify(_ notifications: Notification...) -> Bool {
        guard let sender else { return true }
        let text = notifications.map { Self.text($0) }.joined(separator: "\n")
        return Array(text.utf8).withUnsafeBytes { sender.send($0) } == nil
    }

    /// The descriptor that an earlier run of the daemon has stored with ``store(_:name:)``; not open when there is
    /// none.
    mutating func takeStored() -> FileDescriptor {
        guard !stored.isEmpty else { return FileDescriptor(owning: -1) }
        return stored.removeFirst().descriptor.take()
    }

    /// Gives the manager a copy of a descriptor to keep until the daemon is started again. The unit has to allow it
    /// with FileDescriptorStoreMax=.
    /// - Returns: false when the manager's queue is full, so that the descriptor was not sent.
    func store(_ descriptor: borrowing FileDescriptor, name: String) -> Bool {
        guard let sender else { return true }
        // With FDPOLL=0 the manager does not drop the descriptor when poll(2) reports an error or a hang-up for it.
        let text = Array("FDSTORE=1\nFDNAME=\(name)\nFDPOLL=0".utf8)
        return text.withUnsafeBytes { sender.send($0, descriptor: descriptor.rawValue) } == nil
    }

    private static func text(_ notification: Notification) -> String {
        switch notification {
        case .ready: return "READY=1"
        case .reloading:
            var now = timespec()
            clock_gettime(CLOCK_MONOTONIC, &now)
            return "RELOADING=1\nMONOTONIC_USEC=\(now.tv_sec * 1_000_000 + now.tv_nsec / 1_000)"
        case .stopping: return "STOPPING=1"
        case .result(let errno): return "ERRNO=\(errno)"
        // A newline would begin another assignment.
        case .status(let line): return "STATUS=" + String(line.map { $0.isNewline ? " " : $0 })
        case .watchdog: return "WATCHDOG=1"
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
        guard type == Int32(SOCK_DGRAM.rawValue) else {
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
    private static func inheritedDescriptors() throws(SystemError) -> [InheritedDescriptor] {
        var names: UnsafeMutablePointer<UnsafeMutablePointer<CChar>?>?
        let count = sd_listen_fds_with_names(1, &names)
        guard count >= 0 else { throw SystemError("LISTEN_FDS", errno: -count) }
        defer { free(names) }
        // SD_LISTEN_FDS_START
        return (0..<count).map { index in
            guard let name = names?[Int(index)] else { return InheritedDescriptor("unknown", 3 + index) }
            defer { free(name) }
            return InheritedDescriptor(String(cString: name), 3 + index)
        }
    }
}

/// A descriptor that the service manager has passed to the daemon. It is closed with this object, unless it was taken.
private final class InheritedDescriptor {
    let name: String
    var descriptor: FileDescriptor

    init(_ name: String, _ raw: Int32) {
        self.name = name
        descriptor = FileDescriptor(owning: raw)
    }

    /// Whether it is a file that ``ServiceManager/store(_:name:)`` has stored. A socket unit may have the same name,
    /// but it passes sockets.
    var isStoredFile: Bool {
        var status = stat()
        return name == TicketKeyRotator.storedName && fstat(descriptor.rawValue, &status) == 0
            && status.st_mode & S_IFMT == S_IFREG
    }
}
