/// How many datagrams the kernel has dropped for a socket while somebody watched, mostly for want of room in its receive
/// buffer. The kernel's own count has 32 bits, and begins with the socket, which may be older than this process.
public struct QueueDrops {
    private var last: UInt32
    /// The datagrams that were dropped by the last ``update(from:)``.
    public private(set) var total: UInt64 = 0

    /// Begins to watch a socket.
    public init(of socket: borrowing FileDescriptor) { last = UDPSocket.dropCount(of: socket) ?? 0 }

    /// Asks the kernel. It is to be done before 2^32 are dropped.
    public mutating func update(from socket: borrowing FileDescriptor) {
        guard socket.isOpen, let present = UDPSocket.dropCount(of: socket) else { return }
        total &+= UInt64(present &- last)
        last = present
    }

    /// Goes on with another socket.
    public mutating func `continue`(with other: borrowing FileDescriptor, after socket: borrowing FileDescriptor) {
        update(from: socket)
        last = UDPSocket.dropCount(of: other) ?? 0
    }
}
