import CLinux
import Glibc
import Primitives

/// The system calls on UDP sockets. The caller keeps ownership of each descriptor.
public enum UDPSocket {
    /// What SO_TYPE says of such a socket.
    public static let socketType = Int32(SOCK_DGRAM.rawValue)

    /// Opens a non-blocking socket with these options, and does not bind it.
    public static func open(
        _ family: SocketAddress.Family, options: SocketOptions = SocketOptions()
    ) throws(SystemError) -> FileDescriptor {
        let socket = FileDescriptor(
            owning: try system("socket") {
                Glibc.socket(family.domain, Int32(SOCK_DGRAM.rawValue) | sockNonBlocking | sockCloseOnExec, 0)
            })
        try apply(options, family, to: socket)
        return socket
    }

    /// Opens a listener's socket. It is bound with SO_REUSEPORT, so that the sockets of connections can share its port,
    /// and it reports the address that each datagram was sent to.
    ///
    /// It uses SO_REUSEPORT rather than SO_REUSEADDR, so that bind stays cheap with many connections and no other user
    /// can bind to the port.
    public static func listen(
        on address: SocketAddress, options: SocketOptions
    ) throws(SystemError) -> FileDescriptor {
        let socket = try open(address.family, options: options)
        // For port 0 and SO_REUSEPORT, the kernel may choose the port of another listener of the same user.
        if address.port == 0 { try bind(socket, to: address) }
        try shareAddress(of: socket)
        if address.port != 0 { try bind(socket, to: address) }
        try reportDestinations(of: socket, address.family)
        return socket
    }

    /// Sets SO_REUSEPORT, for a socket that is bound to the address of a listener.
    public static func shareAddress(_ on: Bool = true, of socket: borrowing FileDescriptor) throws(SystemError) {
        try set(socket, SOL_SOCKET, SO_REUSEPORT, on ? 1 : 0, "SO_REUSEPORT")
    }

    /// Makes the kernel report the local address that each received datagram was sent to.
    public static func reportDestinations(
        of socket: borrowing FileDescriptor, _ family: SocketAddress.Family
    ) throws(SystemError) {
        switch family {
        case .ipv4: try set(socket, ipProtocolIP, CL_IP_PKTINFO, 1, "IP_PKTINFO")
        case .ipv6: try set(socket, ipProtocolIPv6, CL_IPV6_RECVPKTINFO, 1, "IPV6_RECVPKTINFO")
        }
    }

    /// Throws EADDRINUSE when another socket is bound to the port. A bind with SO_REUSEPORT alone would silently share
    /// it with another instance of the same user.
    public static func probe(_ address: SocketAddress, _ options: SocketOptions) throws(SystemError) {
        let socket = try open(address.family, options: options)
        try bind(socket, to: address)
    }

    public static func bind(_ socket: borrowing FileDescriptor, to address: SocketAddress) throws(SystemError) {
        let raw = socket.rawValue
        _ = try system("bind", address.description) { address.withSockaddr { Glibc.bind(raw, $0, $1) } }
    }

    /// Binds a socket to an address of this machine, and leaves the port to connect(2) (IP_BIND_ADDRESS_NO_PORT). So
    /// the socket has no port before it has a peer, and a datagram of anybody else cannot reach it in between.
    ///
    /// For TCP this option also lets connections to different peers share a port. For UDP it does not: connect(2) then
    /// asks for a port that no other socket of the address has (inet_autobind). On Linux 6.18 an address with 100 ports
    /// had 100 connected sockets, with one peer and with several.
    public static func bindWithoutPort(
        _ socket: borrowing FileDescriptor, to address: SocketAddress
    ) throws(SystemError) {
        try set(socket, ipProtocolIP, IP_BIND_ADDRESS_NO_PORT, 1, "IP_BIND_ADDRESS_NO_PORT")
        try bind(socket, to: address.with(port: 0))
    }

    public static func connect(_ socket: borrowing FileDescriptor, to address: SocketAddress) throws(SystemError) {
        let raw = socket.rawValue
        _ = try system("connect", address.description) { address.withSockaddr { Glibc.connect(raw, $0, $1) } }
    }

    /// Opens a socket that is bound to a local address and port, and connects it.
    public static func openConnected(
        to peer: SocketAddress, from local: SocketAddress, options: SocketOptions = SocketOptions()
    ) throws(SystemError) -> FileDescriptor {
        let socket = try open(local.family, options: options)
        try bind(socket, to: local)
        try connect(socket, to: peer)
        return socket
    }

    /// Binds a socket to a local address with a free port of a range, and connects it. The kernel chooses ports itself only
    /// from the range of the whole machine (IP_LOCAL_PORT_RANGE of Linux 6.3 makes that smaller, and nothing larger).
    ///
    /// A datagram that anybody has sent to the port between the two calls is dropped.
    /// - Throws: EADDRINUSE where no port was found free. A large range is not looked through: ``portTries`` ports behind
    ///   one that chance chooses are.
    public static func connect(
        _ socket: borrowing FileDescriptor, to peer: SocketAddress, from local: SocketAddress,
        ports: ClosedRange<UInt16>
    ) throws(SystemError) {
        let start = Int(UInt16.random(in: ports)) - Int(ports.lowerBound)
        for step in 0..<min(ports.count, portTries) {
            let port = Int(ports.lowerBound) + (start + step) % ports.count
            do throws(SystemError) {
                try bind(socket, to: local.with(port: UInt16(truncatingIfNeeded: port)))
            } catch {
                if error.errno == EADDRINUSE { continue }
                throw error
            }
            try connect(socket, to: peer)
            return dropDatagrams(of: socket)
        }
        throw SystemError("bind", "\(local.host), ports \(ports.lowerBound) to \(ports.upperBound)", errno: EADDRINUSE)
    }

    /// Ports that are tried for one socket: 1 µs each where they are taken.
    public static let portTries = 1_024

    /// Drops what the socket has received. It is connected, so others than its peer can add nothing.
    private static func dropDatagrams(of socket: borrowing FileDescriptor) {
        let raw = socket.rawValue
        for _ in 0..<4_096 where recv(raw, nil, 0, doNotWait) < 0 { return }
    }

    public static func connect(_ socket: borrowing FileDescriptor, toPath path: String) throws(SystemError) {
        let raw = socket.rawValue
        _ = try system("connect", path) { withUnixAddress(path) { Glibc.connect(raw, $0, $1) } }
    }

    /// Opens a non-blocking Unix datagram socket that is bound to an abstract name of the kernel's choice, so that the
    /// receiver of a datagram can answer (unix(7), autobind).
    public static func openUnixDatagram() throws(SystemError) -> FileDescriptor {
        let socket = FileDescriptor(
            owning: try system("socket") {
                Glibc.socket(AF_UNIX, Int32(SOCK_DGRAM.rawValue) | sockNonBlocking | sockCloseOnExec, 0)
            })
        var address = sockaddr_un()
        address.sun_family = sa_family_t(AF_UNIX)
        let raw = socket.rawValue
        _ = try system("bind", "an abstract Unix address") {
            withUnsafePointer(to: &address) {
                $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                    Glibc.bind(raw, $0, socklen_t(MemoryLayout<sa_family_t>.size))
                }
            }
        }
        return socket
    }

    public static func localAddress(of socket: borrowing FileDescriptor) throws(SystemError) -> SocketAddress? {
        try name(socket, "getsockname", Glibc.getsockname)
    }

    /// The peer's address; `nil` for a socket that is not connected to an IP address.
    public static func peerAddress(of socket: borrowing FileDescriptor) throws(SystemError) -> SocketAddress? {
        try name(socket, "getpeername", Glibc.getpeername)
    }

    /// Sends one datagram over a connected socket, without waiting.
    /// - Returns: false when the socket's buffer is full.
    public static func send(
        _ datagram: UnsafeRawBufferPointer, over socket: borrowing FileDescriptor
    ) throws(SystemError) -> Bool {
        let raw = socket.rawValue
        return try systemUnlessBlocked("send") { Glibc.send(raw, datagram.baseAddress, datagram.count, doNotWait) }
            != nil
    }

    /// Waits until the socket's buffer has space for a datagram.
    /// - Parameter timeout: the longest time to wait; `nil`: no limit.
    /// - Returns: false when the timeout has passed.
    public static func waitForRoom(
        in socket: borrowing FileDescriptor, timeout: Duration?
    ) throws(SystemError) -> Bool {
        var entry = pollfd(fd: socket.rawValue, events: Int16(POLLOUT), revents: 0)
        return try system("poll") { poll(&entry, 1, timeout.map { Int32(clamping: $0.milliseconds) } ?? -1) } > 0
    }

    /// Whether this is a UDP socket.
    public static func isUDP(_ socket: borrowing FileDescriptor) throws(SystemError) -> Bool {
        let type = try get(socket, SOL_SOCKET, SO_TYPE, "SO_TYPE")
        let transport = try get(socket, SOL_SOCKET, SO_PROTOCOL, "SO_PROTOCOL")
        return type == Int32(SOCK_DGRAM.rawValue) && transport == Int32(IPPROTO_UDP)
    }

    /// Returns the pending error of this socket, or 0, and clears it (SO_ERROR).
    public static func takeError(of socket: borrowing FileDescriptor) throws(SystemError) -> Int32 {
        try get(socket, SOL_SOCKET, SO_ERROR, "SO_ERROR")
    }

    private static func name(
        _ socket: borrowing FileDescriptor, _ operation: StaticString,
        _ call: (Int32, UnsafeMutablePointer<sockaddr>, UnsafeMutablePointer<socklen_t>) -> Int32
    ) throws(SystemError) -> SocketAddress? {
        var storage = sockaddr_storage()
        var length = socklen_t(MemoryLayout<sockaddr_storage>.size)
        let raw = socket.rawValue
        _ = try system(operation) {
            withUnsafeMutablePointer(to: &storage) {
                $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { call(raw, $0, &length) }
            }
        }
        return withUnsafePointer(to: &storage) { SocketAddress($0, length: Int(length)) }
    }
}

/// The options of a socket, set together or one by one.
extension UDPSocket {
    /// Sets all options of a socket that is not bound yet.
    public static func apply(
        _ options: SocketOptions, _ family: SocketAddress.Family, to socket: borrowing FileDescriptor
    ) throws(SystemError) {
        if family == .ipv6 { try setIPv6Only(options.ipv6Only, on: socket) }
        if options.freeBind { try setFreeBind(family, on: socket) }
        try apply(options, toBound: socket, family)
    }

    /// Sets the options that matter to a bound socket: all but IPV6_V6ONLY and those of bind(2).
    public static func apply(
        _ options: SocketOptions, toBound socket: borrowing FileDescriptor, _ family: SocketAddress.Family
    ) throws(SystemError) {
        if let size = options.receiveBuffer { try setReceiveBuffer(size, on: socket) }
        if let size = options.sendBuffer { try setSendBuffer(size, on: socket) }
        if let hops = options.timeToLive { try setTimeToLive(hops, family, on: socket) }
        if let codePoint = options.dscp { try setDSCP(codePoint, family, on: socket) }
        if let interface = options.interface { try bindToDevice(interface, socket) }
        if let allowed = options.fragmentation { try setFragmentation(allowed, family, on: socket) }
    }

    public static func setIPv6Only(_ on: Bool, on socket: borrowing FileDescriptor) throws(SystemError) {
        try set(socket, ipProtocolIPv6, IPV6_V6ONLY, on ? 1 : 0, "IPV6_V6ONLY")
    }

    /// Lets the socket be bound to an address that no interface of this machine has. What is sent to the address is received
    /// once one has it. It needs no privilege.
    public static func setFreeBind(
        _ family: SocketAddress.Family, on socket: borrowing FileDescriptor
    ) throws(SystemError) {
        switch family {
        case .ipv4: try set(socket, ipProtocolIP, IP_FREEBIND, 1, "IP_FREEBIND")
        case .ipv6: try set(socket, ipProtocolIPv6, IPV6_FREEBIND, 1, "IPV6_FREEBIND")
        }
    }

    /// Whether a socket is limited to IPv6 (IPV6_V6ONLY); false for IPv4 and dual-stack sockets.
    public static func isIPv6Only(
        _ socket: borrowing FileDescriptor, _ family: SocketAddress.Family
    ) throws(SystemError) -> Bool {
        guard family == .ipv6 else { return false }
        return try get(socket, ipProtocolIPv6, IPV6_V6ONLY, "IPV6_V6ONLY") != 0
    }

    /// Sets SO_REUSEADDR. For UDP, it lets any two sockets that both have it share an address, even those of different
    /// users, so keep it set as briefly as possible.
    public static func setReuseAddress(_ on: Bool, of socket: borrowing FileDescriptor) throws(SystemError) {
        try set(socket, SOL_SOCKET, SO_REUSEADDR, on ? 1 : 0, "SO_REUSEADDR")
    }

    /// Whether the user of this process opened the socket. SO_REUSEPORT lets only sockets of one user share an address.
    public static func isOwn(_ socket: borrowing FileDescriptor) throws(SystemError) -> Bool {
        var status = stat()
        let raw = socket.rawValue
        _ = try system("fstat", "a socket") { fstat(raw, &status) }
        return status.st_uid == geteuid()
    }

    /// Makes a socket another user's, as if that one had opened it. Only root can.
    public static func give(_ descriptor: Int32, to user: UInt32) throws(SystemError) {
        _ = try system("fchown", "a socket") { fchown(descriptor, user, .max) }
    }

    public static func setReceiveBuffer(_ size: Int, on socket: borrowing FileDescriptor) throws(SystemError) {
        try set(socket, SOL_SOCKET, SO_RCVBUF, Int32(clamping: size), "SO_RCVBUF")
    }

    /// Makes the receive buffer larger where it is smaller than this, as far as the system lets this process: up to
    /// net.core.rmem_max, and beyond it with CAP_NET_ADMIN (socket(7)).
    public static func raiseReceiveBuffer(to size: Int, of socket: borrowing FileDescriptor) {
        // The kernel has doubled what was set.
        guard let present = try? receiveBuffer(of: socket), present / 2 < size else { return }
        do throws(SystemError) {
            try set(socket, SOL_SOCKET, SO_RCVBUFFORCE, Int32(clamping: size), "SO_RCVBUFFORCE")
        } catch {
            try? setReceiveBuffer(size, on: socket)
        }
    }

    public static func setSendBuffer(_ size: Int, on socket: borrowing FileDescriptor) throws(SystemError) {
        try set(socket, SOL_SOCKET, SO_SNDBUF, Int32(clamping: size), "SO_SNDBUF")
    }

    /// How many datagrams the kernel has dropped for this socket since it was made, modulo 2^32: the number that
    /// SO_RXQ_OVFL has recvmsg(2) report (sk_drops). Asked for by SO_MEMINFO (since Linux 4.12), it costs the path of a
    /// datagram nothing, and is known while none comes.
    static func dropCount(of socket: borrowing FileDescriptor) -> UInt32? {
        // SK_MEMINFO_VARS words, of which SK_MEMINFO_DROPS is the last.
        var words = (UInt32(0), UInt32(0), UInt32(0), UInt32(0), UInt32(0), UInt32(0), UInt32(0), UInt32(0), UInt32(0))
        var length = socklen_t(MemoryLayout.size(ofValue: words))
        guard getsockopt(socket.rawValue, SOL_SOCKET, CL_SO_MEMINFO, &words, &length) == 0,
            length >= socklen_t(MemoryLayout.size(ofValue: words))
        else { return nil }
        return words.8
    }

    public static func receiveBuffer(of socket: borrowing FileDescriptor) throws(SystemError) -> Int {
        Int(try get(socket, SOL_SOCKET, SO_RCVBUF, "SO_RCVBUF"))
    }

    public static func sendBuffer(of socket: borrowing FileDescriptor) throws(SystemError) -> Int {
        Int(try get(socket, SOL_SOCKET, SO_SNDBUF, "SO_SNDBUF"))
    }

    /// Sets the time to live or hop limit. IP_TTL refuses 0 with EINVAL; IPV6_UNICAST_HOPS accepts it.
    public static func setTimeToLive(
        _ hops: Int, _ family: SocketAddress.Family, on socket: borrowing FileDescriptor
    ) throws(SystemError) {
        switch family {
        case .ipv4: try set(socket, ipProtocolIP, IP_TTL, Int32(clamping: hops), "IP_TTL")
        case .ipv6: try set(socket, ipProtocolIPv6, IPV6_UNICAST_HOPS, Int32(clamping: hops), "IPV6_UNICAST_HOPS")
        }
    }

    /// Sets the code point of the packets that the socket sends; see ``SocketOptions/dscp``.
    public static func setDSCP(
        _ codePoint: Int, _ family: SocketAddress.Family, on socket: borrowing FileDescriptor
    ) throws(SystemError) {
        // The kernel uses the lower two bits for explicit congestion notification (RFC 3168).
        let value = Int32(clamping: codePoint) << 2
        // An IPv6 socket asks the one option for IPv6 and the other for IPv4 clients.
        try set(socket, ipProtocolIP, IP_TOS, value, "IP_TOS")
        if family == .ipv6 { try set(socket, ipProtocolIPv6, IPV6_TCLASS, value, "IPV6_TCLASS") }
    }

    /// Sets whether the kernel may fragment datagrams; see ``SocketOptions/fragmentation``.
    public static func setFragmentation(
        _ allowed: Bool, _ family: SocketAddress.Family, on socket: borrowing FileDescriptor
    ) throws(SystemError) {
        let mode = allowed ? IP_PMTUDISC_WANT : IP_PMTUDISC_DO
        // An IPv6 socket asks the one option for IPv6 and the other for IPv4 clients.
        try set(socket, ipProtocolIP, IP_MTU_DISCOVER, mode, "IP_MTU_DISCOVER")
        if family == .ipv6 { try set(socket, ipProtocolIPv6, IPV6_MTU_DISCOVER, mode, "IPV6_MTU_DISCOVER") }
    }

    /// The path MTU of a connected socket, in bytes, as far as the kernel knows it.
    public static func pathMTU(
        of socket: borrowing FileDescriptor, _ family: SocketAddress.Family
    ) throws(SystemError) -> Int {
        switch family {
        case .ipv4: Int(try get(socket, ipProtocolIP, IP_MTU, "IP_MTU"))
        case .ipv6: Int(try get(socket, ipProtocolIPv6, IPV6_MTU, "IPV6_MTU"))
        }
    }

    /// Whether the kernel refuses datagrams that exceed the path MTU; see ``SocketOptions/fragmentation``.
    public static func refusesLarge(
        _ socket: borrowing FileDescriptor, _ family: SocketAddress.Family
    ) throws(SystemError) -> Bool {
        switch family {
        case .ipv4: try get(socket, ipProtocolIP, IP_MTU_DISCOVER, "IP_MTU_DISCOVER") >= IP_PMTUDISC_DO
        case .ipv6: try get(socket, ipProtocolIPv6, IPV6_MTU_DISCOVER, "IPV6_MTU_DISCOVER") >= IPV6_PMTUDISC_DO
        }
    }

    /// Restricts the socket to one interface; an empty name removes the restriction.
    public static func bindToDevice(_ interface: String, _ socket: borrowing FileDescriptor) throws(SystemError) {
        let raw = socket.rawValue
        var name = interface
        _ = try system("setsockopt(SO_BINDTODEVICE)", interface) {
            name.withUTF8 {
                setsockopt(raw, SOL_SOCKET, SO_BINDTODEVICE, $0.baseAddress, socklen_t(clamping: $0.count))
            }
        }
    }

    /// Restricts the socket to one interface, like ``bindToDevice(_:_:)``. It needs no privilege if the socket has no
    /// interface yet (Linux 5.7).
    public static func bindToInterface(_ index: UInt32, _ socket: borrowing FileDescriptor) throws(SystemError) {
        try set(socket, SOL_SOCKET, SO_BINDTOIFINDEX, Int32(bitPattern: index), "SO_BINDTOIFINDEX")
    }

    static func set(
        _ socket: borrowing FileDescriptor, _ level: Int32, _ option: Int32, _ value: Int32, _ name: StaticString
    ) throws(SystemError) {
        var value = value
        let raw = socket.rawValue
        _ = try system("setsockopt", "\(name)") { setsockopt(raw, level, option, &value, 4) }
    }

    static func get(
        _ socket: borrowing FileDescriptor, _ level: Int32, _ option: Int32, _ name: StaticString
    ) throws(SystemError) -> Int32 {
        var value: Int32 = 0
        var length = socklen_t(4)
        let raw = socket.rawValue
        _ = try system("getsockopt", "\(name)") { getsockopt(raw, level, option, &value, &length) }
        return value
    }
}

let sockNonBlocking = Int32(SOCK_NONBLOCK.rawValue)
let sockCloseOnExec = Int32(SOCK_CLOEXEC.rawValue)
/// MSG_DONTWAIT, and no SIGPIPE.
let doNotWait = Int32(MSG_DONTWAIT) | Int32(MSG_NOSIGNAL)
let ipProtocolIP = Int32(IPPROTO_IP)
let ipProtocolIPv6 = Int32(IPPROTO_IPV6)

/// The longest path of a Unix socket, in bytes (unix(7): sun_path without its terminating NUL).
public let maximumUnixPathLength = MemoryLayout.size(ofValue: sockaddr_un().sun_path) - 1

/// Calls `body` with the sockaddr_un of a path. A path that is too long is truncated; callers refuse it beforehand.
func withUnixAddress<Result>(_ path: String, _ body: (UnsafePointer<sockaddr>, socklen_t) -> Result) -> Result {
    var address = sockaddr_un()
    address.sun_family = sa_family_t(AF_UNIX)
    withUnsafeMutableBytes(of: &address.sun_path) { target in
        for (index, byte) in path.utf8.prefix(maximumUnixPathLength).enumerated() { target[index] = byte }
    }
    return withUnsafePointer(to: &address) {
        $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { body($0, socklen_t(MemoryLayout<sockaddr_un>.size)) }
    }
}

/// The errors that ICMP messages report to a connected UDP socket.
extension UDPSocket {
    /// Makes the socket report unreachable hosts and networks too. Without this it reports closed ports only (udp(7),
    /// IP_RECVERR), and an unreachable machine looks like a silent one.
    ///
    /// The kernel queues each error, and epoll reports the socket until ``takeErrors(of:)`` has emptied the queue.
    public static func reportAllErrors(
        _ family: SocketAddress.Family, of socket: borrowing FileDescriptor
    ) throws(SystemError) {
        switch family {
        case .ipv4: try set(socket, ipProtocolIP, IP_RECVERR, 1, "IP_RECVERR")
        case .ipv6: try set(socket, ipProtocolIPv6, IPV6_RECVERR, 1, "IPV6_RECVERR")
        }
    }

    /// Empties the error queue.
    /// - Returns: the errno of the last error that means that the peer is unreachable, or 0. EMSGSIZE does not mean
    ///   that: it reports a smaller path MTU, which the kernel already uses.
    public static func takeErrors(of socket: borrowing FileDescriptor) -> Int32 {
        let raw = socket.rawValue
        var last = (try? takeError(of: socket)) ?? 0
        if last == EMSGSIZE { last = 0 }
        // Reading an entry sets SO_ERROR to the next errno (ip_recv_error). A peer can add entries without end.
        for _ in 0..<256 {
            guard recv(raw, nil, 0, Int32(MSG_ERRQUEUE) | doNotWait) >= 0 else { break }
            let error = (try? takeError(of: socket)) ?? 0
            if error != 0, error != EMSGSIZE { last = error }
        }
        return last
    }
}

extension UDPSocket {
    /// Whether the kernel finds a connected socket by its peer before it considers the other sockets of the address, as
    /// Linux does since 6.13. This is tested on the loopback interface, which takes less than a millisecond; if a
    /// datagram is lost there, the result is false after 0.1 s.
    /// - Parameter address: an address of the family in question; an IPv4-mapped one counts as IPv4.
    public static func findsConnectedFirst(like address: SocketAddress) -> Bool {
        do throws(SystemError) {
            let host = address.isIPv4Mapped ? "::ffff:127.0.0.1" : address.family == .ipv4 ? "127.0.0.1" : "::1"
            guard let any = SocketAddress(host: host, port: 0) else { return false }
            let options = SocketOptions(ipv6Only: false)
            let listener = try listen(on: any, options: options)
            let peer = try open(any.family, options: options)
            try bind(peer, to: any)
            guard let local = try localAddress(of: listener), let remote = try localAddress(of: peer) else {
                return false
            }
            // Older kernels deliver the datagram to the first or the last of these sockets. Both are unconnected, and
            // take precedence over `connected` by the interface that they are bound to.
            let first = try unconnected(local)
            let connected = try open(any.family, options: options)
            try shareAddress(of: connected)
            try bind(connected, to: local)
            try connect(connected, to: remote)
            let last = try unconnected(local)
            try connect(peer, to: local)
            guard [0].withUnsafeBytes({ (try? send($0, over: peer)) == true }) else { return false }
            var places = [connected.rawValue, first.rawValue, last.rawValue, listener.rawValue].map {
                pollfd(fd: $0, events: Int16(POLLIN), revents: 0)
            }
            return poll(&places, nfds_t(places.count), 100) == 1 && places[0].revents & Int16(POLLIN) != 0
        } catch {
            return false
        }
    }

    private static func unconnected(_ local: SocketAddress) throws(SystemError) -> FileDescriptor {
        let socket = try open(local.family, options: SocketOptions(ipv6Only: false))
        try shareAddress(of: socket)
        try bindToInterface(if_nametoindex("lo"), socket)
        try bind(socket, to: local)
        return socket
    }
}
