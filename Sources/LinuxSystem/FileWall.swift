import CLinux
import Glibc

/// What a process may do with files, by Landlock (landlock(7)): nothing, but for what it is granted. It holds for what is
/// opened from then on, and not for descriptors that are open.
///
/// Where the kernel can, it keeps the process from TCP (Linux 6.7), from Unix sockets with abstract names and from signals to
/// processes outside (Linux 6.12), too.
public enum FileWall {
    /// What may be done all the same.
    public enum Grant: Hashable, Sendable {
        /// Files may be made, and appended to, in this folder and below it. Where it is not there yet, the nearest one above
        /// it is meant.
        case logs(in: String)
        /// Files and folders may be read in this folder and below it.
        case reading(in: String)
        /// This file may be read. Nothing is granted where there is none; one that takes its place later cannot be read.
        case readingFile(String)

        /// LANDLOCK_ACCESS_FS_WRITE_FILE and …_MAKE_REG; …_READ_FILE; …_READ_DIR.
        fileprivate var rights: UInt64 {
            switch self {
            case .logs: 1 << 1 | 1 << 8
            case .reading: 1 << 2 | 1 << 3
            case .readingFile: 1 << 2
            }
        }
    }

    /// The version of the kernel's interface; 0 where it has none, or it is off.
    public static var version: Int { max(0, Int(cl_landlock_version())) }

    /// Raises the wall around this thread, and all processes that it starts, for good. It takes
    /// ``Privileges/forbidNew()``, or CAP_SYS_ADMIN.
    /// - Parameters:
    ///   - grants: what may be done.
    ///   - connectsTCP: whether TCP connections may be made. None can be waited for.
    /// - Throws: ENOSYS and EOPNOTSUPP where the kernel has no Landlock.
    public static func raise(_ grants: [Grant], connectsTCP: Bool = false) throws(SystemError) {
        let version = try system("landlock_create_ruleset") { cl_landlock_version() }
        let rights: UInt64 =
            switch version {
            case ...1: 1 << 13 - 1
            case 2: 1 << 14 - 1
            case 3, 4: 1 << 15 - 1
            default: 1 << 16 - 1
            }
        // LANDLOCK_ACCESS_NET_BIND_TCP and …_CONNECT_TCP; LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET and …_SIGNAL.
        var wanted = cl_landlock_ruleset(
            files: rights, network: version >= 4 ? connectsTCP ? 0b01 : 0b11 : 0, scopes: version >= 6 ? 0b11 : 0)
        let ruleset = FileDescriptor(
            owning: try system("landlock_create_ruleset") { cl_landlock_create(&wanted) })
        for grant in grants { try add(grant, to: ruleset) }
        let raw = ruleset.rawValue
        _ = try system("landlock_restrict_self") { cl_landlock_restrict(raw) }
    }

    private static func add(_ grant: Grant, to ruleset: borrowing FileDescriptor) throws(SystemError) {
        switch grant {
        case .logs(let folder): try add(grant, at: folder, openNearest(folder), to: ruleset)
        case .reading(let folder):
            try add(grant, at: folder, system("open", folder) { open(folder, CL_O_PATH | O_CLOEXEC) }, to: ruleset)
        case .readingFile(let file):
            let opened = open(file, CL_O_PATH | O_CLOEXEC)
            if opened >= 0 { try add(grant, at: file, opened, to: ruleset) }
        }
    }

    /// - Parameter opened: the descriptor of what is at the path, which is closed.
    private static func add(
        _ grant: Grant, at path: String, _ opened: Int32, to ruleset: borrowing FileDescriptor
    ) throws(SystemError) {
        let place = FileDescriptor(owning: opened)
        let (raw, number) = (ruleset.rawValue, place.rawValue)
        _ = try system("landlock_add_rule", path) { cl_landlock_grant(raw, grant.rights, number) }
    }

    /// A folder, or the nearest one above it that is there by now.
    private static func openNearest(_ folder: String) throws(SystemError) -> Int32 {
        var path = folder
        while true {
            let opened = open(path, CL_O_PATH | O_CLOEXEC | O_DIRECTORY)
            if opened >= 0 { return opened }
            guard errno == ENOENT, path.count > 1, let slash = path.lastIndex(of: "/") else {
                throw SystemError("open", path, errno: errno)
            }
            path = slash == path.startIndex ? "/" : String(path[..<slash])
        }
    }
}
