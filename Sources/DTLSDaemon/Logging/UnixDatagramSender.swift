import CLinux
import Glibc
import LinuxSystem

/// Sends datagrams to a Unix socket by its address, and never waits. The address is looked up each time, so a receiver
/// that has been started again is found.
final class UnixDatagramSender: Sendable {
    private let socket: FileDescriptor
    private let path: [UInt8]

    /// - Parameter address: a path, or `@` and an abstract name.
    init(to address: String) throws(SystemError) {
        let bytes = Array(address.utf8)
        let isAbstract = bytes.first == UInt8(ascii: "@")
        guard bytes.count > 1, isAbstract || bytes.first == UInt8(ascii: "/"), !bytes.contains(0) else {
            throw SystemError("Unix socket address", "'\(address)'", errno: EINVAL)
        }
        // A path needs its zero byte within sun_path, an abstract name does not.
        guard bytes.count < MemoryLayout.size(ofValue: sockaddr_un().sun_path) + (isAbstract ? 1 : 0) else {
            throw SystemError("Unix socket address", "'\(address)'", errno: ENAMETOOLONG)
        }
        path = isAbstract ? [0] + bytes.dropFirst() : bytes + [0]
        let type = Int32(SOCK_DGRAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue) | Int32(SOCK_NONBLOCK.rawValue)
        let descriptor = Glibc.socket(AF_UNIX, type, 0)
        guard descriptor >= 0 else { throw SystemError("socket(AF_UNIX)", address, errno: errno) }
        socket = FileDescriptor(owning: descriptor)
    }

    /// - Parameter descriptor: a copy of it goes along; -1: none.
    /// - Returns: `nil`, or why the datagram has not been taken; EAGAIN when the receiver's queue is full.
    func send(_ datagram: UnsafeRawBufferPointer, descriptor: Int32 = -1) -> SystemError? {
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
                    if descriptor >= 0 { Self.attach(descriptor, control, to: &header) }
                    return sendmsg(raw, &header, Int32(MSG_DONTWAIT) | Int32(MSG_NOSIGNAL))
                }
            }
        }
        return sent >= 0 ? nil : SystemError("sendmsg", "Unix socket", errno: errno)
    }

    private static func attach(_ descriptor: Int32, _ control: UnsafeMutableRawBufferPointer, to header: inout msghdr) {
        header.msg_control = control.baseAddress
        header.msg_controllen = cl_cmsg_space(4)
        guard let first = cl_cmsg_first(&header) else { return }
        first.pointee.cmsg_level = SOL_SOCKET
        first.pointee.cmsg_type = Int32(SCM_RIGHTS)
        first.pointee.cmsg_len = cl_cmsg_len(4)
        cl_cmsg_data(first)?.storeBytes(of: descriptor, as: Int32.self)
    }
}
