import CLinux
import Glibc

/// A listening Unix stream socket with a name in the file system.
public final class UnixListener {
    public let path: String
    public let descriptor: FileDescriptor
    /// The socket's file, which may be another one's by the time that this one is closed.
    private let file: FileIdentity

    private struct FileIdentity: Equatable {
        let device: dev_t
        let number: ino_t

        /// `nil` where there is no socket of this name.
        init?(socketAt path: String) {
            var status = stat()
            guard lstat(path, &status) == 0, status.st_mode & S_IFMT == S_IFSOCK else { return nil }
            device = status.st_dev
            number = status.st_ino
        }
    }

    /// Clients that may wait to be accepted.
    private static let backlog: Int32 = 16

    /// Makes a socket, in place of one that a process has left which is not there any more.
    /// - Parameters:
    ///   - mode: of the file: who may write to it may connect.
    ///   - group: that the file is of; `nil`: that of the process.
    /// - Throws: EADDRINUSE where a process answers there, EEXIST where the name is that of something else than a socket,
    ///   ENAMETOOLONG, and the errors of bind(2), chown(2) and chmod(2).
    public init(at path: String, mode: UInt32, group: UInt32?) throws(SystemError) {
        guard path.utf8.count <= maximumUnixPathLength else {
            throw SystemError("bind", path, errno: ENAMETOOLONG)
        }
        try Self.removeAbandoned(path)
        let type = Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue) | Int32(SOCK_NONBLOCK.rawValue)
        let socket = FileDescriptor(owning: try system("socket") { Glibc.socket(AF_UNIX, type, 0) })
        let raw = socket.rawValue
        _ = try system("bind", path) { withUnixAddress(path) { bind(raw, $0, $1) } }
        // Nobody can connect before listen(2).
        do throws(SystemError) {
            try Self.setAccess(to: path, mode: mode, group: group)
            _ = try system("listen", path) { Glibc.listen(raw, Self.backlog) }
        } catch {
            unlink(path)
            throw error
        }
        guard let file = FileIdentity(socketAt: path) else { throw SystemError("stat", path, errno: ENOENT) }
        self.path = path
        self.file = file
        descriptor = socket
    }

    /// Takes over a listening socket of another process.
    /// - Throws: where its name is another socket's by now, or nobody's.
    public init(adopting socket: consuming FileDescriptor, at path: String) throws(SystemError) {
        guard let file = FileIdentity(socketAt: path) else { throw SystemError("stat", path, errno: ENOENT) }
        try socket.makeNonBlocking()
        self.path = path
        self.file = file
        descriptor = socket
    }

    private static func removeAbandoned(_ path: String) throws(SystemError) {
        var status = stat()
        guard lstat(path, &status) == 0 else { return }
        guard status.st_mode & S_IFMT == S_IFSOCK else { throw SystemError("bind", path, errno: EEXIST) }
        let type = Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue) | Int32(SOCK_NONBLOCK.rawValue)
        let probe = FileDescriptor(owning: try system("socket") { Glibc.socket(AF_UNIX, type, 0) })
        let connected = withUnixAddress(path) { connect(probe.rawValue, $0, $1) }
        // Only this says that nobody has the socket open (unix(7)).
        guard connected != 0, errno == ECONNREFUSED else { throw SystemError("bind", path, errno: EADDRINUSE) }
        _ = try system("unlink", path) { unlink(path) }
    }

    private static func setAccess(to path: String, mode: UInt32, group: UInt32?) throws(SystemError) {
        if let group { _ = try system("chown", path) { chown(path, .max, group) } }
        _ = try system("chmod", path) { chmod(path, mode) }
    }

    /// Changes who may connect.
    public func setAccess(mode: UInt32, group: UInt32?) throws(SystemError) {
        try Self.setAccess(to: path, mode: mode, group: group)
    }

    /// Accepts a client, without waiting.
    /// - Returns: `nil` where none waits.
    public func accept() throws(SystemError) -> FileDescriptor? {
        let raw = descriptor.rawValue
        let accepted = try systemUnlessBlocked("accept", path) {
            let result = Glibc.accept(raw, nil, nil)
            // The client has gone before it was accepted.
            guard result < 0, errno == ECONNABORTED else { return result }
            errno = EAGAIN
            return -1
        }
        guard let accepted else { return nil }
        let client = FileDescriptor(owning: accepted)
        _ = try system("fcntl(F_SETFD)") { fcntl(client.rawValue, F_SETFD, FD_CLOEXEC) }
        try client.makeNonBlocking()
        return client
    }

    /// Removes the socket's file, unless the name is another socket's by now.
    public func removeFile() {
        if FileIdentity(socketAt: path) == file { unlink(path) }
    }

    /// The group of the socket's file; `nil` where it is gone.
    public var group: UInt32? {
        var status = stat()
        return lstat(path, &status) == 0 ? status.st_gid : nil
    }
}

/// The process at the other end of a Unix stream socket, as it was when it connected (SO_PEERCRED and SO_PEERGROUPS,
/// unix(7)).
public struct UnixPeer: Equatable, Sendable {
    public var user: UInt32
    /// Its own group, and all supplementary ones.
    public var groups: [UInt32]

    public init(user: UInt32, groups: [UInt32]) {
        self.user = user
        self.groups = groups
    }

    public init(of socket: borrowing FileDescriptor) throws(SystemError) {
        let raw = socket.rawValue
        // struct ucred: process, user, group.
        var credentials = [UInt32](repeating: 0, count: 3)
        var length = socklen_t(12)
        _ = try system("getsockopt(SO_PEERCRED)") { getsockopt(raw, SOL_SOCKET, SO_PEERCRED, &credentials, &length) }
        user = credentials[1]
        groups = [credentials[2]]
        // NGROUPS_MAX
        var more = [UInt32](repeating: 0, count: 65_536)
        length = socklen_t(more.count * 4)
        if getsockopt(raw, SOL_SOCKET, CL_SO_PEERGROUPS, &more, &length) == 0 { groups += more.prefix(Int(length) / 4) }
    }
}
