import CLinux
import Glibc

/// What a process may do with files, by Landlock (landlock(7)): nothing, but for log files in some folders. It holds for
/// what is opened from then on, and not for descriptors that are open.
///
/// Where the kernel can, it keeps the process from TCP (Linux 6.7), from Unix sockets with abstract names and from signals to
/// processes outside (Linux 6.12), too.
public enum FileWall {
    /// LANDLOCK_ACCESS_FS_WRITE_FILE and LANDLOCK_ACCESS_FS_MAKE_REG
    private static let writingLogs: UInt64 = 1 << 1 | 1 << 8
    private static let pathOfFolder = CL_O_PATH | O_CLOEXEC | O_DIRECTORY

    /// The version of the kernel's interface; 0 where it has none, or it is off.
    public static var version: Int { max(0, Int(cl_landlock_version())) }

    /// Raises the wall around this thread, and all processes that it starts, for good. It takes
    /// ``Privileges/forbidNew()``, or CAP_SYS_ADMIN.
    /// - Parameter folders: in which files may be made, and appended to.
    /// - Throws: ENOSYS and EOPNOTSUPP where the kernel has no Landlock.
    public static func raise(exceptLogsIn folders: Set<String>) throws(SystemError) {
        let version = try system("landlock_create_ruleset") { cl_landlock_version() }
        let rights: UInt64 =
            switch version {
            case ...1: 1 << 13 - 1
            case 2: 1 << 14 - 1
            case 3, 4: 1 << 15 - 1
            default: 1 << 16 - 1
            }
        var wanted = cl_landlock_ruleset(
            files: rights, network: version >= 4 ? 0b11 : 0, scopes: version >= 6 ? 0b11 : 0)
        let ruleset = FileDescriptor(
            owning: try system("landlock_create_ruleset") { cl_landlock_create(&wanted) })
        let raw = ruleset.rawValue
        for folder in folders {
            let place = try openNearest(folder)
            let number = place.rawValue
            _ = try system("landlock_add_rule", folder) { cl_landlock_grant(raw, writingLogs, number) }
        }
        _ = try system("landlock_restrict_self") { cl_landlock_restrict(raw) }
    }

    /// A folder, or the nearest one above it that is there by now.
    private static func openNearest(_ folder: String) throws(SystemError) -> FileDescriptor {
        var path = folder
        while true {
            let opened = open(path, pathOfFolder)
            if opened >= 0 { return FileDescriptor(owning: opened) }
            guard errno == ENOENT, path.count > 1, let slash = path.lastIndex(of: "/") else {
                throw SystemError("open", path, errno: errno)
            }
            path = slash == path.startIndex ? "/" : String(path[..<slash])
        }
    }
}
