import CLinux
import Glibc
import Primitives

/// A SOCK_SEQPACKET pair between two processes. It carries whole messages in order, each with at most one descriptor.
public enum UnixChannel {
    /// The two connected ends.
    @frozen public struct Pair: ~Copyable {
        public var one: FileDescriptor
        public var other: FileDescriptor
    }

    /// Creates two connected, non-blocking ends.
    public static func pair() throws(SystemError) -> Pair {
        var ends: [Int32] = [-1, -1]
        _ = try system("socketpair") {
            socketpair(AF_UNIX, Int32(SOCK_SEQPACKET.rawValue) | sockNonBlocking | sockCloseOnExec, 0, &ends)
        }
        return Pair(one: FileDescriptor(owning: ends[0]), other: FileDescriptor(owning: ends[1]))
    }

    /// The size of the longest message, in bytes.
    public static let maximumMessageSize = 128 * 1024

    /// Sends one message, with a copy of `descriptor` (-1: none).
    /// - Returns: false when the channel is full and nothing was sent.
    public static func send(
        _ message: UnsafeRawBufferPointer, descriptor: Int32 = -1, over channel: borrowing FileDescriptor
    ) throws(SystemError) -> Bool {
        var vector = iovec(iov_base: UnsafeMutableRawPointer(mutating: message.baseAddress), iov_len: message.count)
        let raw = channel.rawValue
        return try withTemporaryBytes(32, alignment: 8) { control throws(SystemError) in
            var header = msghdr()
            header.msg_iovlen = 1
            if descriptor >= 0 { attach(descriptor, control, to: &header) }
            do throws(SystemError) {
                return try withUnsafeMutablePointer(to: &vector) { vector throws(SystemError) in
                    header.msg_iov = vector
                    return try systemUnlessBlocked("sendmsg", "a channel") { sendmsg(raw, &header, doNotWait) } != nil
                }
            } catch {
                // With too many descriptors in flight (unix(7)), or no memory for a message, the channel counts as
                // full.
                if error.errno == ETOOMANYREFS || error.errno == ENOBUFS { return false }
                throw error
            }
        }
    }

    /// Attaches a descriptor to a message (SCM_RIGHTS, unix(7)).
    /// - Parameter control: memory for the control message, which `header` points to afterwards.
    static func attach(_ descriptor: Int32, _ control: UnsafeMutableRawBufferPointer, to header: inout msghdr) {
        header.msg_control = control.baseAddress
        header.msg_controllen = cl_cmsg_space(4)
        guard let first = cl_cmsg_first(&header) else { return }
        first.pointee.cmsg_level = SOL_SOCKET
        first.pointee.cmsg_type = Int32(SCM_RIGHTS)
        first.pointee.cmsg_len = cl_cmsg_len(4)
        cl_cmsg_data(first)?.storeBytes(of: descriptor, as: Int32.self)
    }

    /// The result of reading from a channel.
    public enum Received: ~Copyable {
        /// There is no message at the moment.
        case nothing
        /// The other end is closed.
        case end
        /// A message of `count` bytes is in the buffer, with the descriptor that came with it. `descriptorWasLost` says
        /// that one was sent, but this process has no descriptor left for it.
        case message(count: Int, FileDescriptor?, descriptorWasLost: Bool)
    }

    /// Reads one message into `buffer`, without waiting. A message that does not fit is an error (EMSGSIZE). Of several
    /// descriptors, which no end sends, the first is taken.
    public static func receive(
        into buffer: UnsafeMutableRawBufferPointer, from channel: borrowing FileDescriptor
    ) throws(SystemError) -> Received {
        var vector = iovec(iov_base: buffer.baseAddress, iov_len: buffer.count)
        let raw = channel.rawValue
        return try withTemporaryBytes(32, alignment: 8) { control throws(SystemError) in
            var header = msghdr()
            header.msg_iovlen = 1
            header.msg_control = control.baseAddress
            // Without the padding of CMSG_SPACE, in which a second descriptor would fit: the kernel closes what does
            // not fit (scm_detach_fds).
            header.msg_controllen = cl_cmsg_len(4)
            let count = try withUnsafeMutablePointer(to: &vector) { vector throws(SystemError) in
                header.msg_iov = vector
                return try systemUnlessBlocked("recvmsg", "a channel") {
                    let read = recvmsg(raw, &header, Int32(MSG_DONTWAIT) | CL_MSG_CMSG_CLOEXEC)
                    // The other end was closed before it had read everything. The kernel says so once, ahead of the
                    // messages that the other end has sent (unix_release_sock, __skb_try_recv_datagram), which are
                    // still there.
                    guard read < 0, errno == ECONNRESET else { return read }
                    return recvmsg(raw, &header, Int32(MSG_DONTWAIT) | CL_MSG_CMSG_CLOEXEC)
                }
            }
            guard let count else { return .nothing }
            let descriptor = FileDescriptor(owning: takeDescriptor(&header))
            if count == 0, hasEnded(raw) { return .end }
            guard header.msg_flags & Int32(MSG_TRUNC) == 0 else {
                throw SystemError("recvmsg", "a channel", errno: EMSGSIZE)
            }
            let lost = header.msg_flags & Int32(MSG_CTRUNC) != 0
            if descriptor.isOpen { return .message(count: count, descriptor, descriptorWasLost: false) }
            return .message(count: count, nil, descriptorWasLost: lost)
        }
    }

    /// Waits until there is a message, or the other end is closed.
    /// - Parameter milliseconds: for how long at most; `nil`: for ever.
    /// - Returns: false when the time is over.
    public static func waitForMessage(
        on channel: borrowing FileDescriptor, milliseconds: Int32? = nil
    ) throws(SystemError) -> Bool {
        var request = pollfd(fd: channel.rawValue, events: Int16(POLLIN), revents: 0)
        return try system("poll", "a channel") { poll(&request, 1, milliseconds ?? -1) } > 0
    }

    /// Whether the other end is closed: a message without bytes reads like the end.
    private static func hasEnded(_ channel: Int32) -> Bool {
        var request = pollfd(fd: channel, events: 0, revents: 0)
        return poll(&request, 1, 0) != 0
    }

    private static func takeDescriptor(_ header: inout msghdr) -> Int32 {
        guard header.msg_controllen >= cl_cmsg_len(4), let first = cl_cmsg_first(&header),
            first.pointee.cmsg_level == SOL_SOCKET, first.pointee.cmsg_type == Int32(SCM_RIGHTS),
            let data = cl_cmsg_data(first)
        else { return -1 }
        return data.loadUnaligned(as: Int32.self)
    }
}
