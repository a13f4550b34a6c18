import CLinux
import Glibc

/// The network interfaces of this machine.
public enum NetworkInterface {
    /// The socket over which the kernel is asked. It has no peer, so nothing can be sent over it.
    private static let socket = FileDescriptor(
        owning: Glibc.socket(AF_UNIX, Int32(SOCK_STREAM.rawValue) | sockCloseOnExec, 0))

    /// Has ``index(of:)`` need no socket(2) from now on.
    public static func prepare() { _ = socket.isOpen }

    /// The number of an interface; 0 where there is none of this name.
    public static func index(of name: String) -> UInt32 {
        guard socket.isOpen else { return if_nametoindex(name) }
        // struct ifreq: the name with its NUL in 16 bytes, and a union.
        var request = ifreq()
        guard name.utf8.count < IF_NAMESIZE else { return 0 }
        return withUnsafeMutableBytes(of: &request) { bytes in
            bytes.copyBytes(from: name.utf8)
            guard let start = bytes.baseAddress, ioctl(socket.rawValue, UInt(SIOCGIFINDEX), start) == 0 else {
                return 0
            }
            return UInt32(clamping: bytes.loadUnaligned(fromByteOffset: Int(IF_NAMESIZE), as: Int32.self))
        }
    }
}
