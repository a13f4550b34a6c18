import Glibc
import LinuxSystem

/// Datagram TLS: the module of the reference, with its names.
///
/// A call that blocks or calls back belongs to the thread that makes it, and to that thread's ``Iosched``. Asynchronous
/// functions get Swift's own face of the same things: ``AsyncDtlsServer`` and ``AsyncDtlsConnection``.
public enum Dtls {
    /// An IPv4 address with a port (reference: Dtls.sockaddr). See ``DtlsAddress`` for the ranges.
    public static func sockaddr(_ addr: String, _ port: Int) throws(DtlsError) -> DtlsAddress {
        try DtlsAddress(domain: AF_INET, addr: addr, port: port)
    }

    /// An IPv6 address with a port (reference: Dtls.sockaddr6). See ``DtlsAddress`` for the ranges.
    public static func sockaddr6(_ addr: String, _ port: Int) throws(DtlsError) -> DtlsAddress {
        try DtlsAddress(domain: AF_INET6, addr: addr, port: port)
    }

    /// The text of a file, for certificates and keys (reference: fs.readString).
    public static func readString(_ path: String) throws(DtlsError) -> String {
        let bytes = try DtlsError.system { () throws(SystemError) in
            try TextFile.read(path, limit: maximumFileSize)
        }
        guard let text = String(validating: bytes, as: UTF8.self) else {
            throw .invalid("\(path) is not a text in UTF-8; certificates and keys are expected as PEM")
        }
        // Some editors write a byte order mark at the start, which is no part of a password.
        return text.utf8.starts(with: "\u{FEFF}".utf8) ? String(text.unicodeScalars.dropFirst()) : text
    }

    /// 4 MiB: a list of all public CAs has about a quarter of a megabyte.
    private static let maximumFileSize = 4 << 20
}

/// The reference's constants, with its values and its names.
// swift-format-ignore: AlwaysUseLowerCamelCase
extension Dtls {
    /// The domain of IPv4 addresses.
    public static let AF_INET = 2
    /// The domain of IPv6 addresses.
    public static let AF_INET6 = 10

    /// No IPv4 address: what calls of other systems return for a wrong one.
    public static let INADDR_NONE = "255.255.255.255"
    /// This host.
    public static let INADDR_LOOPBACK = "127.0.0.1"
    /// All IPv4 addresses of this host, for servers.
    public static let INADDR_ANY = "0.0.0.0"
    /// All hosts of the network. DTLS has no use for it.
    public static let INADDR_BROADCAST = "255.255.255.255"

    /// All IPv6 addresses of this host, for servers; IPv4 too, unless ``DtlsSocket/setIPv6Only(_:)`` says otherwise.
    public static let IN6ADDR_ANY = "::"
    /// This host.
    public static let IN6ADDR_LOOPBACK = "::1"
    /// All nodes, within this host. DTLS has no use for it.
    public static let IN6ADDR_NODELOCAL_ALLNODES = "ff01::1"
    /// All nodes of the link. DTLS has no use for it.
    public static let IN6ADDR_LINKLOCAL_ALLNODES = "ff02::1"
    /// The value that the reference documents. (RFC 4291 has the link-local routers at ff02::2.)
    public static let IN6ADDR_LINKLOCAL_ALLROUTERS = "ff01::2"
}
