import Glibc
import LinuxSystem

/// The common part of servers and connections (reference: the Dtls object): a UDP socket with its names and options.
///
/// It belongs to the thread that made it, and so do its callbacks: a call on another thread ends the process with a
/// message that names both threads. What may be done on every thread is ``DtlsConnection/remote``, and to drop the last
/// reference to what is closed; a thread that ends closes all that it has open.
public class DtlsSocket {
    let scheduler: Iosched
    /// The program's events on this socket; `close` ends them.
    var events: [Iosched.Event] = []
    /// The descriptor by which the scheduler knows this socket, or -1.
    private var registered: Int32 = -1
    /// What watches for room in the socket's buffer, where an event of the program's waits for that.
    private var room: DescriptorWatch?

    init(_ scheduler: Iosched) { self.scheduler = scheduler }

    /// See ``Iosched/checkThread(_:_:)``.
    @inline(__always) final func checkThread(_ call: StaticString = #function) {
        scheduler.checkThread(type(of: self), call)
    }

    /// The socket's descriptor, or -1 once it is closed (reference: sockFd). For ``Iosched/event(_:_:_:)`` and to be
    /// sent to a task; a program that reads from it takes the connection's datagrams away.
    public var sockFd: Int32 { -1 }

    /// Whether there is something to `recv` or `accept`, or to learn an end from.
    var isReadable: Bool { false }

    /// The program begins to use it: a connection whose handshake has not begun begins that.
    func beginUse() {}

    /// Why it cannot be used any more.
    var fault: DtlsError { .notOpen }

    /// Closes it. Closing twice does no harm.
    public func close() {}

    /// The last error that the network reported, or 0; asking clears it (reference: error).
    public func error() -> Int32 {
        checkThread()
        return FileDescriptor.withBorrowed(sockFd) { (try? UDPSocket.takeError(of: $0)) ?? 0 }
    }

    /// The local address (reference: sockName).
    public func sockName() throws(DtlsError) -> DtlsAddress {
        checkThread()
        guard let address = try withSocket({ socket throws(SystemError) in try UDPSocket.localAddress(of: socket) })
        else { throw .system(call: "getsockname", subject: "", errno: EAFNOSUPPORT) }
        return DtlsAddress(address)
    }

    /// The remote address (reference: peerName). A server has none: ENOTCONN.
    public func peerName() throws(DtlsError) -> DtlsAddress {
        checkThread()
        guard let address = try withSocket({ socket throws(SystemError) in try UDPSocket.peerAddress(of: socket) })
        else { throw .system(call: "getpeername", subject: "", errno: ENOTCONN) }
        return DtlsAddress(address)
    }

    // MARK: Options

    /// Sends and receives over one network interface only (reference: bindToDevice). Needs CAP_NET_RAW where the socket
    /// is bound to one already (socket(7)).
    /// - Parameter ifname: `nil`: every interface again.
    public func bindToDevice(_ ifname: String? = nil) throws(DtlsError) {
        checkThread()
        let name = ifname ?? ""
        guard name.utf8.count < Int(IFNAMSIZ) else {
            throw .invalid("\"\(name)\" is too long for an interface's name: it may have \(IFNAMSIZ - 1) bytes")
        }
        try change { $0.interface = name }
    }

    /// IP's time to live, or IPv6's hop limit (reference: setTTL).
    /// - Parameter timeToLive: 0 to 255. Linux refuses 0 for IPv4 (EINVAL).
    public func setTTL(_ timeToLive: Int) throws(DtlsError) {
        checkThread()
        guard SocketOptions.timesToLive.contains(timeToLive) else {
            throw .invalid("TTL \(timeToLive) is out of range: it must be 0 to 255")
        }
        try change { $0.timeToLive = timeToLive }
    }

    /// Whether an IPv6 socket takes IPv6 packets only (reference: setIPv6Only).
    ///
    /// The kernel does not change this once a socket is bound; a server takes a new socket for it, a connection can
    /// only be told what it is already (EINVAL otherwise).
    public func setIPv6Only(_ enable: Bool) throws(DtlsError) {
        checkThread()
        guard try sockName().domain == Dtls.AF_INET6 else {
            throw .system(call: "setsockopt", subject: "IPV6_V6ONLY of an IPv4 socket", errno: ENOPROTOOPT)
        }
        let isOn = try withSocket { socket throws(SystemError) in try UDPSocket.isIPv6Only(socket, .ipv6) }
        if isOn != enable { try changeIPv6Only(enable) }
    }

    /// Bytes of the receive buffer (reference: getRecvBufferSize). Linux counts its own records in, so this is twice
    /// what was set (socket(7)).
    public func getRecvBufferSize() throws(DtlsError) -> Int {
        checkThread()
        return try withSocket { socket throws(SystemError) in try UDPSocket.receiveBuffer(of: socket) }
    }

    /// Bytes of the send buffer (reference: getSendBufferSize); twice what was set, see ``getRecvBufferSize()``.
    public func getSendBufferSize() throws(DtlsError) -> Int {
        checkThread()
        return try withSocket { socket throws(SystemError) in try UDPSocket.sendBuffer(of: socket) }
    }

    /// Makes the receive buffer larger or smaller (reference: setRecvBufferSize).
    /// - Parameter size: 1,024 to 16,777,216 bytes.
    /// - Returns: the bytes that were got: `size`, or less where that is above the system's limit, net.core.rmem_max.
    @discardableResult
    public func setRecvBufferSize(_ size: Int) throws(DtlsError) -> Int {
        checkThread()
        try check(bufferSize: size)
        try change { $0.receiveBuffer = size }
        return min(size, try getRecvBufferSize() / 2)
    }

    /// Makes the send buffer larger or smaller (reference: setSendBufferSize).
    /// - Parameter size: 1,024 to 16,777,216 bytes.
    /// - Returns: the bytes that were got: `size`, or less where that is above the system's limit, net.core.wmem_max.
    @discardableResult
    public func setSendBufferSize(_ size: Int) throws(DtlsError) -> Int {
        checkThread()
        try check(bufferSize: size)
        try change { $0.sendBuffer = size }
        return min(size, try getSendBufferSize() / 2)
    }

    private func check(bufferSize: Int) throws(DtlsError) {
        guard SocketOptions.bufferSizes.contains(bufferSize) else {
            throw .invalid("buffer size \(bufferSize) is out of range: it must be 1024 to 16777216 bytes")
        }
    }

    // MARK: Registration

    /// Makes this socket known to the scheduler by its present descriptor.
    func register() {
        unregister()
        registered = sockFd
        scheduler.register(self, registered)
        for event in events { event.socketChanged() }
    }

    /// What watches for room in the socket's buffer.
    func roomWatch() throws(DtlsError) -> DescriptorWatch {
        if let room { return room }
        guard sockFd >= 0 else { throw fault }
        let watch = try DtlsError.system { () throws(SystemError) in
            try DescriptorWatch(copyOf: sockFd, scheduler.loop)
        }
        room = watch
        return watch
    }

    /// Takes this socket from the scheduler: its descriptor is closed, or belongs to another object now.
    func unregister() {
        if registered >= 0 { scheduler.unregister(self, registered) }
        registered = -1
        room?.end()
        room = nil
    }

    func endEvents() {
        let ended = events
        events = []
        for event in ended { event.end() }
    }

    /// There is something to read.
    func becameReadable() {
        for event in events where event.kind == .read { event.schedule() }
    }

    /// It cannot be used any more: each event's callback learns that from what it calls.
    func becameUnusable() {
        for event in events { event.schedule() }
    }

    /// Changes the options that `set` sets.
    func change(_ set: (inout SocketOptions) -> Void) throws(DtlsError) {
        var options = SocketOptions()
        set(&options)
        let family = try sockName().socketAddress.family
        try withSocket { socket throws(SystemError) in
            try UDPSocket.apply(options, toBound: socket, family)
        }
    }

    func changeIPv6Only(_ enable: Bool) throws(DtlsError) {
        try withSocket { socket throws(SystemError) in try UDPSocket.setIPv6Only(enable, on: socket) }
    }

    func withSocket<Result>(
        _ body: (borrowing FileDescriptor) throws(SystemError) -> Result
    ) throws(DtlsError) -> Result {
        guard sockFd >= 0 else { throw fault }
        do { return try FileDescriptor.withBorrowed(sockFd, body) } catch { throw DtlsError(error) }
    }
}
