import CLinux
import Glibc
import LinuxSystem

/// Writes files as a whole: who reads one sees the old or the new one, and never a part.
enum PrivateFile {
    /// - Parameters:
    ///   - mode: of the new file; 0600 for what holds secrets.
    ///   - owner: who the file belongs to, where that is to be kept.
    static func replace(
        _ path: String, with bytes: [UInt8], mode: mode_t = 0o600, owner: (user: uid_t, group: gid_t)? = nil
    ) throws(SystemError) {
        let temporary = "\(path).\(getpid()).new"
        unlink(temporary)
        do throws(SystemError) {
            try write(bytes, to: temporary, mode, owner)
            guard rename(temporary, path) == 0 else { throw SystemError("rename", path, errno: errno) }
        } catch {
            unlink(temporary)
            throw error
        }
    }

    private static func write(
        _ bytes: [UInt8], to path: String, _ mode: mode_t, _ owner: (user: uid_t, group: gid_t)?
    ) throws(SystemError) {
        let descriptor = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0o600)
        guard descriptor >= 0 else { throw SystemError("open", path, errno: errno) }
        let file = FileDescriptor(owning: descriptor)
        var rest = bytes[...]
        while !rest.isEmpty {
            let count = rest.withUnsafeBytes { Glibc.write(file.rawValue, $0.baseAddress, $0.count) }
            if count < 0, errno == EINTR { continue }
            guard count > 0 else { throw SystemError("write", path, errno: errno) }
            rest = rest.dropFirst(count)
        }
        if let owner, owner.user != geteuid() || owner.group != getegid() {
            guard fchown(file.rawValue, owner.user, owner.group) == 0 else {
                throw SystemError("fchown", path, errno: errno)
            }
        }
        // Only now: chown takes bits away, and the umask has.
        guard fchmod(file.rawValue, mode) == 0 else { throw SystemError("fchmod", path, errno: errno) }
        guard fsync(file.rawValue) == 0 else { throw SystemError("fsync", path, errno: errno) }
    }

    static func exists(_ path: String) -> Bool {
        var status = stat()
        return lstat(path, &status) == 0
    }
}
