import CLinux
import Glibc

/// A Unix datagram socket with a name of its own, connected to a server's socket, without blocking. The kernel lets nobody
/// send to it but that server (unix_may_send), though the name is an abstract one, which has no permissions.
public final class UnixDatagramClient: Sendable {
    public let descriptor: FileDescriptor

    /// - Parameter path: of the server's socket.
    /// - Throws: the errors of socket(2), bind(2) and connect(2): ENOENT and ECONNREFUSED where no server is there, EACCES
    ///   where this process may not write to its socket.
    public init(to path: String) throws(SystemError) {
        guard path.utf8.count <= maximumUnixPathLength else {
            throw SystemError("connect", path, errno: ENAMETOOLONG)
        }
        let type = Int32(SOCK_DGRAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue) | Int32(SOCK_NONBLOCK.rawValue)
        let socket = FileDescriptor(owning: try system("socket(AF_UNIX)", path) { Glibc.socket(AF_UNIX, type, 0) })
        let raw = socket.rawValue
        // An address of nothing but its family has the kernel choose a name (autobind, unix(7)).
        var unnamed = sockaddr_un()
        unnamed.sun_family = sa_family_t(AF_UNIX)
        _ = try system("bind", path) {
            withUnsafePointer(to: &unnamed) {
                $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                    bind(raw, $0, socklen_t(MemoryLayout<sa_family_t>.size))
                }
            }
        }
        _ = try system("connect", path) { withUnixAddress(path) { connect(raw, $0, $1) } }
        descriptor = socket
    }

    /// Sends one datagram.
    /// - Returns: why it was not sent; `nil` if it was. EAGAIN means that the server's queue is full, which the socket is
    ///   writable after; ECONNREFUSED that the server has closed its socket.
    public func send(_ datagram: [UInt8]) -> SystemError? {
        let sent = Glibc.send(descriptor.rawValue, datagram, datagram.count, Int32(MSG_DONTWAIT) | Int32(MSG_NOSIGNAL))
        return sent >= 0 ? nil : SystemError("send", "Unix socket", errno: errno)
    }

    /// Receives one datagram into a buffer.
    /// - Returns: its bytes, of which the buffer holds as many as it has room for; `nil` where there is none.
    public func receive(into buffer: UnsafeMutableRawBufferPointer) -> Int? {
        let count = recv(
            descriptor.rawValue, buffer.baseAddress, buffer.count, Int32(MSG_DONTWAIT) | Int32(MSG_TRUNC))
        return count >= 0 ? count : nil
    }
}
