import CLinux
import Glibc

/// Sends datagrams to a Unix socket by its address, without blocking. The kernel looks up the address each time, so
/// that it finds a receiver that has been restarted.
public final class UnixDatagramSender: Sendable {
    private let socket: FileDescriptor
    /// The bytes of sun_path: a path with its terminating NUL, or a NUL and an abstract name (unix(7)).
    private let path: [UInt8]

    /// - Parameter address: a path, or `@` and an abstract name.
    /// - Throws: EINVAL for any other address, ENAMETOOLONG for one that does not fit a sockaddr_un, and the errors of
    ///   socket(2).
    public init(to address: String) throws(SystemError) {
        let bytes = Array(address.utf8)
        let isAbstract = bytes.first == UInt8(ascii: "@")
        guard bytes.count > 1, isAbstract || bytes.first == UInt8(ascii: "/"), !bytes.contains(0) else {
            throw SystemError("Unix socket address", "'\(address)'", errno: EINVAL)
        }
        // An abstract name has no terminating NUL.
        guard bytes.count <= maximumUnixPathLength + (isAbstract ? 1 : 0) else {
            throw SystemError("Unix socket address", "'\(address)'", errno: ENAMETOOLONG)
        }
        path = isAbstract ? [0] + bytes.dropFirst() : bytes + [0]
        let type = Int32(SOCK_DGRAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue) | Int32(SOCK_NONBLOCK.rawValue)
        let descriptor = Glibc.socket(AF_UNIX, type, 0)
        guard descriptor >= 0 else { throw SystemError("socket(AF_UNIX)", address, errno: errno) }
        socket = FileDescriptor(owning: descriptor)
    }

    /// Sends one datagram.
    /// - Parameter descriptor: the receiver gets a copy of this descriptor (SCM_RIGHTS); -1 for none.
    /// - Returns: why the datagram was not sent; `nil` if it was. EAGAIN means that the receiver's queue is full.
    public func send(_ datagram: UnsafeRawBufferPointer, descriptor: Int32 = -1) -> SystemError? {
        var address = sockaddr_un()
        address.sun_family = sa_family_t(AF_UNIX)
        let offset = MemoryLayout<sockaddr_un>.offset(of: \.sun_path) ?? 2
        let length = socklen_t(offset + path.count)
        var vector = iovec(iov_base: UnsafeMutableRawPointer(mutating: datagram.baseAddress), iov_len: datagram.count)
        let raw = socket.rawValue
        let sent = withUnsafeMutableBytes(of: &address) { storage in
            for (index, byte) in path.enumerated() { storage[offset + index] = byte }
            return withUnsafeMutablePointer(to: &vector) { vector in
                withUnsafeTemporaryAllocation(byteCount: 32, alignment: 8) { control in
                    var header = msghdr()
                    header.msg_name = storage.baseAddress
                    header.msg_namelen = length
                    header.msg_iov = vector
                    header.msg_iovlen = 1
                    if descriptor >= 0 { UnixChannel.attach(descriptor, control, to: &header) }
                    return sendmsg(raw, &header, Int32(MSG_DONTWAIT) | Int32(MSG_NOSIGNAL))
                }
            }
        }
        return sent >= 0 ? nil : SystemError("sendmsg", "Unix socket", errno: errno)
    }
}
