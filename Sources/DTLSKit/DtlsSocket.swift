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

    /// - Parameter size: 1,024 to 16,777,216 bytes. The kernel silently takes no more than net.core.rmem_max.
    public func setRecvBufferSize(_ size: Int) throws(DtlsError) {
        checkThread()
        try check(bufferSize: size)
        try change { $0.receiveBuffer = size }
    }

    /// - Parameter size: 1,024 to 16,777,216 bytes. The kernel silently takes no more than net.core.wmem_max.
    public func setSendBufferSize(_ size: Int) throws(DtlsError) {
        checkThread()
        try check(bufferSize: size)
        try change { $0.sendBuffer = size }
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
    }

    /// Takes this socket from the scheduler: its descriptor is closed, or belongs to another object now.
    func unregister() {
        if registered >= 0 { scheduler.unregister(self, registered) }
        registered = -1
    }

    func endEvents() {
        let ended = events
        events = []
        for event in ended { event.end() }
    }

    /// There is something to read, or to learn an end from.
    func becameReadable() {
        for event in events where event.kind == .read { event.schedule() }
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
        guard sockFd >= 0 else { throw .notOpen }
        do { return try FileDescriptor.withBorrowed(sockFd, body) } catch { throw DtlsError(error) }
    }
}
