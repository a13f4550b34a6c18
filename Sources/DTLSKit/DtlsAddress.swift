import LinuxSystem

/// An IP address with a port (reference: sockaddr). Made by ``Dtls/sockaddr(_:_:)`` and ``Dtls/sockaddr6(_:_:)``.
public struct DtlsAddress: Hashable, Sendable, CustomStringConvertible {
    package let socketAddress: SocketAddress

    package init(_ address: SocketAddress) { socketAddress = address }

    /// - Parameters:
    ///   - domain: ``Dtls/AF_INET`` or ``Dtls/AF_INET6``; `nil`: as `addr` says.
    ///   - addr: a numeric address, `"192.0.2.1"`, `"2001:db8::1"` or `"fe80::1%eth0"`.
    ///   - port: 0 to 65535; 0 lets the system choose a server's port.
    public init(domain: Int? = nil, addr: String, port: Int) throws(DtlsError) {
        guard let port = UInt16(exactly: port) else {
            throw .invalid("port \(port) is out of range: it must be 0 to 65535")
        }
        guard let address = SocketAddress(host: addr, port: port) else {
            throw .invalid("\"\(addr)\" is no numeric IP address, such as 192.0.2.1 or 2001:db8::1")
        }
        guard domain == nil || domain == Int(address.family.domain) else {
            throw .invalid("\"\(addr)\" is not an address of the domain \(domain ?? 0)")
        }
        socketAddress = address
    }

    /// ``Dtls/AF_INET`` or ``Dtls/AF_INET6``.
    public var domain: Int { Int(socketAddress.family.domain) }
    /// The address, without its port.
    public var addr: String { socketAddress.host }
    /// The UDP port, 0 to 65,535.
    public var port: Int { Int(socketAddress.port) }

    /// `"192.0.2.1:4433"` or `"[2001:db8::1]:4433"`
    public var description: String { socketAddress.description }
}
