import CLinux
import CSystemd
import Glibc
import LinuxSystem

/// The service manager that has started the daemon, or none: notifications, the watchdog, sockets passed in.
///
/// libsystemd reads what it passes in; its sd_notify waits while systemd's queue is full, so notifications are sent by
/// a sender that does not.
struct ServiceManager: ~Copyable {
    /// A socket that was passed in.
    struct PassedSocket: ~Copyable {
        /// FileDescriptorName= of the socket unit; `"unknown"` when it has none.
        let name: String
        /// Bound, datagrams, non-blocking, closed on exec.
        let descriptor: FileDescriptor
        let address: SocketAddress
    }

    /// What the manager is told.
    enum Notification: Sendable, Equatable {
        /// Start-up or a reload has finished.
        case ready
        /// A reload has begun; `ready` ends it, whether the new configuration was taken or refused.
        case reloading
        case stopping
        /// One line for `systemctl status`.
        case status(String)
        /// The event loop is alive.
        case watchdog
    }

    /// How often ``Notification/watchdog`` is due, in microseconds: half of what the unit's WatchdogSec= allows. `nil`
    /// when there is no watchdog.
    let watchdogInterval: UInt64?
    private let sender: UnixDatagramSender?
    private var passed: [(name: String, descriptor: Int32)]
    /// What the manager has kept for the daemon (FDSTORE=1), to be told from sockets by its name.
    private var stored: [(name: String, descriptor: Int32)]

    /// Reads the environment, and removes from it what is meant for this process alone: NOTIFY_SOCKET, LISTEN_* and
    /// WATCHDOG_*. To be called once, at the start of the main process, before another thread exists.
    /// - Throws: when a variable is there and its contents are not as documented.
    init() throws(SystemError) {
        let address = getenv("NOTIFY_SOCKET").map { String(cString: $0) }
        unsetenv("NOTIFY_SOCKET")
        var microseconds: UInt64 = 0
        let watchdog = sd_watchdog_enabled(1, &microseconds)
        guard watchdog >= 0 else { throw SystemError("WATCHDOG_USEC", errno: -watchdog) }
        var sender: UnixDatagramSender?
        if let address, !address.isEmpty { sender = try UnixDatagramSender(to: address) }
        let passed = try Self.takePassedDescriptors()
        self.watchdogInterval = watchdog > 0 ? max(1, microseconds / 2) : nil
        self.sender = sender
        stored = passed.filter { Self.isStored($0.name, $0.descriptor) }
        self.passed = passed.filter { !Self.isStored($0.name, $0.descriptor) }
    }

    deinit {
        for descriptor in passed + stored { close(descriptor.descriptor) }
    }

    /// Whether a manager listens to notifications.
    var isPresent: Bool { sender != nil }

    /// Tells the manager, and never waits.
    /// - Returns: whether the manager has it, or there is none. `false` for a full queue: say again what matters.
    @discardableResult
    func notify(_ notifications: Notification...) -> Bool {
        guard let sender else { return true }
        let text = notifications.map { Self.text($0) }.joined(separator: "\n")
        return Array(text.utf8).withUnsafeBytes { sender.send($0) } == nil
    }

    /// A file under the name that ``store(_:name:)`` gives; a socket unit may have that name, too.
    private static func isStored(_ name: String, _ descriptor: Int32) -> Bool {
        var status = stat()
        return name == TicketKeyRotator.storedName && fstat(descriptor, &status) == 0
            && status.st_mode & S_IFMT == S_IFREG
    }

    /// What an earlier run of the daemon has given to ``store(_:name:)``; not open where there is nothing.
    mutating func takeStored() -> FileDescriptor {
        guard !stored.isEmpty else { return FileDescriptor(owning: -1) }
        return FileDescriptor(owning: stored.removeFirst().descriptor)
    }

    /// Gives the manager a copy of a descriptor to keep until the daemon is started again. The unit allows it with
    /// FileDescriptorStoreMax=.
    /// - Returns: whether the manager has it, or there is none; `false` for a full queue.
    func store(_ descriptor: borrowing FileDescriptor, name: String) -> Bool {
        guard let sender else { return true }
        // FDPOLL=0: not to be dropped for what poll(2) says of it.
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
        // A newline would begin another assignment.
        case .status(let line): return "STATUS=" + String(line.map { $0.isNewline ? " " : $0 })
        case .watchdog: return "WATCHDOG=1"
        }
    }
}

/// A socket that was passed in and cannot be used.
struct PassedSocketError: Error, CustomStringConvertible, Equatable {
    let name: String
    let reason: String

    var description: String {
        "the socket '\(name)' passed in by systemd \(reason); expected ListenDatagram= with an IPv4 or IPv6 address"
    }
}

extension ServiceManager {
    /// Hands over the sockets that were passed in, each one looked at. A second call yields none.
    /// - Parameter body: is given one socket after the other.
    /// - Throws: for the first that is not a bound UDP socket; it and all after it are closed.
    mutating func takeSockets(_ body: (consuming PassedSocket) -> Void) throws(PassedSocketError) {
        var rest = passed.map { ($0.name, Optional($0.descriptor)) }
        passed = []
        defer { for (_, descriptor) in rest { if let descriptor { close(descriptor) } } }
        for index in rest.indices {
            guard let number = rest[index].1 else { continue }
            rest[index].1 = nil
            body(try Self.checked(name: rest[index].0, descriptor: FileDescriptor(owning: number)))
        }
    }

    static func checked(
        name: String, descriptor: consuming FileDescriptor
    ) throws(PassedSocketError) -> PassedSocket {
        let type = try option(SO_TYPE, of: descriptor, name: name)
        let domain = try option(SO_DOMAIN, of: descriptor, name: name)
        guard type == Int32(SOCK_DGRAM.rawValue) else {
            throw PassedSocketError(name: name, reason: "has no datagrams (ListenStream= or the like)")
        }
        guard domain == AF_INET || domain == AF_INET6 else {
            throw PassedSocketError(name: name, reason: "has no Internet address")
        }
        guard let address = boundAddress(descriptor), address.port != 0 else {
            throw PassedSocketError(name: name, reason: "is not bound to an address")
        }
        do throws(SystemError) { try descriptor.makeNonBlocking() } catch {
            throw PassedSocketError(name: name, reason: "cannot be made non-blocking (\(error.reason))")
        }
        return PassedSocket(name: name, descriptor: descriptor, address: address)
    }

    private static func option(
        _ option: Int32, of descriptor: borrowing FileDescriptor, name: String
    ) throws(PassedSocketError) -> Int32 {
        var value: Int32 = 0
        var length = socklen_t(MemoryLayout<Int32>.size)
        guard getsockopt(descriptor.rawValue, SOL_SOCKET, option, &value, &length) == 0 else {
            throw PassedSocketError(name: name, reason: "is no socket (\(String(cString: strerror(errno))))")
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

    /// Reads LISTEN_PID, LISTEN_FDS and LISTEN_FDNAMES, and sets FD_CLOEXEC (sd_listen_fds does that).
    private static func takePassedDescriptors() throws(SystemError) -> [(name: String, descriptor: Int32)] {
        var names: UnsafeMutablePointer<UnsafeMutablePointer<CChar>?>?
        let count = sd_listen_fds_with_names(1, &names)
        guard count >= 0 else { throw SystemError("LISTEN_FDS", errno: -count) }
        defer { free(names) }
        // SD_LISTEN_FDS_START
        return (0..<count).map { index in
            guard let name = names?[Int(index)] else { return ("unknown", 3 + index) }
            defer { free(name) }
            return (String(cString: name), 3 + index)
        }
    }
}
